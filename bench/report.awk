# Makes the benchmark's report from the rows that bench.c wrote: awk -F, -f bench/report.awk results.csv
#
# value["KIND/METHOD/TEMPLATE/CLIENTS/STEP", COLUMN] holds one figure each, the columns named as in the first line.

NR == 1 {
    for (i = 1; i <= NF; i++)
        column[i] = $i
    next
}

{
    key = $1 "/" $2 "/" $3 "/" $4 "/" $5
    for (i = 6; i <= NF; i++)
        value[key, column[i]] = $i
    if (!(($1, $3, $4) in seen)) {
        seen[$1, $3, $4] = 1
        if ($1 == "cycle")
            clients[$3] = clients[$3] " " $4
    }
    name = $1 "/" $2 "/" $3 "/" $4
    if ($12 > 0.05 * $6 && !(name in noted)) {
        noted[name] = 1
        missed[++nmissed] = sprintf("%s: %d turns did not count, as what it measures did not happen", name, $12)
    }
}

# has(KEY): that was measured.
function has(key) {
    return (key, "count") in value
}

# ms(KEY, COLUMN): a time in milliseconds, as text; "-" if it was not measured.
function ms(key, name) {
    if (!has(key))
        return "-"
    return sprintf(value[key, name] < 995 ? "%.3f" : "%.1f", value[key, name] / 1000)
}

# rate(KEY): how many per second, as text.
function rate(key) {
    return has(key) ? sprintf(value[key, "per_second"] < 100 ? "%.1f" : "%.0f", value[key, "per_second"]) : "-"
}

# title(METHOD): its name for the reader.
function title(method) {
    return method in titles ? titles[method] : method
}

# cycles(TEMPLATE): the table of rates for a template.
function cycles(template,    n, list, i, j, key, line, any) {
    n = split(clients[template], list, " ")
    if (n == 0)
        return
    printf "\nCycles per second, %s (clone, connect, insert, select, disconnect, drop)\n", names[template]
    printf "  %-40s", "clients:"
    for (j = 1; j <= n; j++)
        printf " %9s", list[j]
    printf "\n"
    for (i = 1; i <= nmethods; i++) {
        line = sprintf("  %-40s", title(method[i]))
        any = 0
        for (j = 1; j <= n; j++) {
            key = (method[i] == "none" ? "reconnect/" : "cycle/") method[i] "/" template "/" list[j] "/cycle"
            line = line sprintf(" %9s", rate(key))
            any = any || has(key)
        }
        if (any)
            print line
    }
}

# rewinds(TEMPLATE): the table of cycles over a connection that stays open.
function rewinds(template,    list, n, j, i, kinds, nkinds, words, key, line, any) {
    if (!has("rewind/native/" template "/1/cycle"))
        return
    n = split("1 4 16", list, " ")
    nkinds = split("rewind/native truncate/native reconnect/none rewind_tcp/native reconnect_tcp/none", kinds, " ")
    words["rewind/native"] = "testdb_rewind"
    words["truncate/native"] = "TRUNCATE of all tables, their rows inserted again"
    words["reconnect/none"] = "bare reconnect to one database"
    words["rewind_tcp/native"] = "testdb_rewind, over TCP"
    words["reconnect_tcp/none"] = "bare reconnect, over TCP with a password"
    printf "\nCycles per second, %s (insert, select, the content as it was), the connection stays open\n", names[template]
    printf "  %-50s", "clients:"
    for (j = 1; j <= n; j++)
        printf " %9s", list[j]
    printf "\n"
    for (i = 1; i <= nkinds; i++) {
        line = sprintf("  %-50s", words[kinds[i]])
        any = 0
        for (j = 1; j <= n; j++) {
            key = kinds[i] "/" template "/" list[j] "/cycle"
            line = line sprintf(" %9s", rate(key))
            any = any || has(key)
        }
        if (any)
            print line
    }
}

# steps(TEMPLATE): the table of what a single client waits for.
function steps(template,    i, j, key, list, n) {
    n = split("clone connect statements drop cycle", list, " ")
    printf "\nWhat one client waits for, %s, milliseconds (p50 / p99)\n  %-40s", names[template], ""
    for (j = 1; j <= n; j++)
        printf " %17s", list[j]
    printf "\n"
    for (i = 1; i <= nmethods; i++) {
        key = (method[i] == "none" ? "reconnect/" : "cycle/") method[i] "/" template "/1/"
        if (!has(key "cycle"))
            continue
        printf "  %-40s", title(method[i])
        for (j = 1; j <= n; j++)
            printf " %17s", has(key list[j]) ? ms(key list[j], "p50_us") " / " ms(key list[j], "p99_us") : "-"
        printf "\n"
    }
}

# line(TEXT, KEY): a line of the table of single figures.
function line(text, key) {
    if (has(key))
        printf "  %-66s %8s %8s %8s\n", text, ms(key, "p50_us"), ms(key, "p95_us"), ms(key, "p99_us")
}

# target(TEXT, KEY, COLUMN, BASE_KEY, BASE_COLUMN, SENSE, LIMIT): a line of the list of targets, which says whether the
# ratio of the two figures is at most (or at least) the limit.
function target(text, a, acolumn, b, bcolumn, sense, limit,    ratio, ok) {
    if (!has(a) || !has(b)) {
        printf "  %-72s %10s %13s  not measured\n", text, "-", sense " " sprintf("%.3g", limit)
        return
    }
    ratio = value[a, acolumn] / value[b, bcolumn]
    ok = sense == "<=" ? ratio <= limit : ratio >= limit
    printf "  %-72s %10.3f %13s  %s\n", text, ratio, sense " " sprintf("%.3g", limit), ok ? "ok" : "MISSED"
}

# targets(): what was set out to be reached.
function targets(    t, native, drop, i, n) {
    t = "bench_t100"
    native = has("cycle/native_no_spares/" t "/4/cycle") ? "native_no_spares" : "native"
    drop = "core_default"
    if (has("cycle/core_file_copy/" t "/1/drop") && has("cycle/core_default/" t "/1/drop") &&
        value["cycle/core_file_copy/" t "/1/drop", "p50_us"] < value["cycle/core_default/" t "/1/drop", "p50_us"])
        drop = "core_file_copy"

    printf "\n  %-72s %10s %13s\n", "Targets (100 tables where nothing else is said; medians)", "measured", "target"
    target("drop + ready again / core's default CREATE + DROP", "ready/native/" t "/1/ready", "p50_us",
        "ready/core_default/" t "/1/ready", "p50_us", "<=", 1 / 25)
    target("drop + ready again / core's FILE_COPY CREATE + DROP", "ready/native/" t "/1/ready", "p50_us",
        "ready/core_file_copy/" t "/1/ready", "p50_us", "<=", 1 / 12)
    target("drop + ready again, 1,000 tables / 100 tables", "ready/native/bench_t1000/1/ready", "p50_us",
        "ready/native/" t "/1/ready", "p50_us", "<=", 1.5)
    target("cold native clone / raw copy of the template", "cold/native/" t "/1/clone", "p50_us",
        "raw/none/" t "/1/copy", "p50_us", "<=", 1.3)
    target("cold native clone / raw copy, 1,000 tables", "cold/native/bench_t1000/1/clone", "p50_us",
        "raw/none/bench_t1000/1/copy", "p50_us", "<=", 1.3)
    target("cold native clone / raw copy, 1 GB", "cold/native/bench_large/1/clone", "p50_us",
        "raw/none/bench_large/1/copy", "p50_us", "<=", 1.3)
    target("cycles/s, 4 clients, no spares ahead / core's FILE_COPY", "cycle/" native "/" t "/4/cycle", "per_second",
        "cycle/core_file_copy/" t "/4/cycle", "per_second", ">=", 4)
    target("first connection to a native clone / to a WAL_LOG clone", "ready/native/" t "/1/connect", "p50_us",
        "ready/core_default/" t "/1/connect", "p50_us", "<=", 0.6)
    target("testdb_drop / DROP DATABASE ... WITH (FORCE), the faster of both", "cycle/native/" t "/1/drop", "p50_us",
        "cycle/" drop "/" t "/1/drop", "p50_us", "<=", 1 / 8)
    target("testdb_clone with a spare ready / SELECT 1, p50", "spare/native/" t "/1/clone", "p50_us",
        "spare/native/" t "/1/select_1", "p50_us", "<=", 2)
    target("testdb_clone with a spare ready / SELECT 1, p99", "spare/native/" t "/1/clone", "p99_us",
        "spare/native/" t "/1/select_1", "p99_us", "<=", 10)
    target("first testdb_clone of a finished template / SELECT 1, p50", "first/native/" t "/1/clone", "p50_us",
        "first/native/" t "/1/select_1", "p50_us", "<=", 2)
    target("cycles/s, 4 clients / bare reconnect", "cycle/native/" t "/4/cycle", "per_second",
        "reconnect/none/" t "/4/cycle", "per_second", ">=", 0.6)
    target("cycles/s, 4 clients / core's default", "cycle/native/" t "/4/cycle", "per_second",
        "cycle/core_default/" t "/4/cycle", "per_second", ">=", 12)
    target("cycles/s, 16 clients / 4 clients", "cycle/native/" t "/16/cycle", "per_second",
        "cycle/native/" t "/4/cycle", "per_second", ">=", 1)
    for (i = 1; i <= 3; i++) {
        n = i == 1 ? 1 : i == 2 ? 4 : 16
        target("cycles/s with testdb_rewind / bare reconnect, clients: " n, "rewind/native/" t "/" n "/cycle", "per_second",
            "reconnect/none/" t "/" n "/cycle", "per_second", ">=", 2)
    }
    for (i = 1; i <= 2; i++) {
        n = i == 1 ? 1 : 4
        target("the same over TCP with a password, clients: " n, "rewind_tcp/native/" t "/" n "/cycle", "per_second",
            "reconnect_tcp/none/" t "/" n "/cycle", "per_second", ">=", 4)
    }
    target("testdb_rewind after an INSERT / CHECKPOINT", "rewind_call/native/" t "/1/rewind", "p50_us",
        "rewind_call/native/" t "/1/checkpoint", "p50_us", "<=", 3)
    target("testdb_rewind after DDL / after an INSERT", "rewind_call/native/" t "/1/rewind_ddl", "p50_us",
        "rewind_call/native/" t "/1/rewind", "p50_us", "<=", 3)
    target("testdb_rewind, 1,000 tables / 100 tables", "rewind_call/native/bench_t1000/1/rewind", "p50_us",
        "rewind_call/native/" t "/1/rewind", "p50_us", "<=", 1.2)
    target("testdb_rewind, 1 GB and 100 tables / 100 tables", "rewind_call/native/bench_large/1/rewind", "p50_us",
        "rewind_call/native/" t "/1/rewind", "p50_us", "<=", 1.5)
    target("TRUNCATE and inserting again / testdb_rewind", "truncate/native/" t "/1/rewind", "p50_us",
        "rewind/native/" t "/1/rewind", "p50_us", ">=", 20)
    if (has("spare/native/" t "/1/select_1")) {
        value["allowed", "count"] = 1
        value["allowed", "p50_us"] = 4 * value["spare/native/" t "/1/select_1", "p50_us"] + 300
    }
    target("CREATE DATABASE served with a spare / 4 times SELECT 1 + 0.3 ms", "cycle/create_database/" t "/1/clone", "p50_us",
        "allowed", "p50_us", "<=", 1)
    target("CREATE DATABASE, core's default / served with a spare", "cycle/core_default/" t "/1/clone", "p50_us",
        "cycle/create_database/" t "/1/clone", "p50_us", ">=", 50)
    target("DROP DATABASE, core's / served", "cycle/core_default/" t "/1/drop", "p50_us",
        "cycle/create_database/" t "/1/drop", "p50_us", ">=", 20)
    target("cycles/s, 4 clients, CREATE DATABASE served / core's", "cycle/create_database/" t "/4/cycle", "per_second",
        "cycle/core_default/" t "/4/cycle", "per_second", ">=", 15)
    target("longest cycle / median, 16 clients", "cycle/native/" t "/16/cycle", "max_us",
        "cycle/native/" t "/16/cycle", "p50_us", "<=", 20)
}

# single(TEMPLATE): the table of what is measured by itself.
function single(template,    name) {
    name = names[template]
    line("CREATE + DROP, core's default, " name, "ready/core_default/" template "/1/ready")
    line("CREATE + DROP, core's FILE_COPY, " name, "ready/core_file_copy/" template "/1/ready")
    line("drop + ready again, native, " name, "ready/native/" template "/1/ready")
    line("first connection to a WAL_LOG clone, " name, "ready/core_default/" template "/1/connect")
    line("first connection to a native clone, " name, "ready/native/" template "/1/connect")
    line("cold native clone, " name, "cold/native/" template "/1/clone")
    line("raw copy of the template's directory, " name, "raw/none/" template "/1/copy")
    line("testdb_rewind after an INSERT, " name, "rewind_call/native/" template "/1/rewind")
    line("testdb_rewind after CREATE TABLE, " name, "rewind_call/native/" template "/1/rewind_ddl")
    line("CHECKPOINT after an INSERT, " name, "rewind_call/native/" template "/1/checkpoint")
    line("testdb_clone with a spare ready, " name, "spare/native/" template "/1/clone")
    line("first testdb_clone of a finished template, " name, "first/native/" template "/1/clone")
    line("SELECT 1 on the same connection, before it", "first/native/" template "/1/select_1")
    line("SELECT 1 on the same connection", "spare/native/" template "/1/select_1")
}

BEGIN {
    nmethods = split("core_default core_file_copy create_database wal_log file_copy native_no_spares native none", method, " ")
    titles["core_default"] = "CREATE DATABASE, DROP DATABASE"
    titles["core_file_copy"] = "the same with STRATEGY file_copy"
    titles["create_database"] = "CREATE and DROP DATABASE, served by testdb"
    titles["wal_log"] = "testdb, method wal_log"
    titles["file_copy"] = "testdb, method file_copy"
    titles["native_no_spares"] = "testdb, native, testdb.spares = 0"
    titles["native"] = "testdb, native"
    titles["none"] = "limit: bare reconnect to one database"
    ntemplates = split("bench_empty bench_zabbix bench_t100 bench_t1000 bench_large", template, " ")
    names["bench_empty"] = "empty database"
    names["bench_zabbix"] = "zabbix"
    names["bench_t100"] = "100 tables"
    names["bench_t1000"] = "1,000 tables"
    names["bench_large"] = "1 GB"
}

END {
    for (t = 1; t <= ntemplates; t++)
        cycles(template[t])
    for (t = 1; t <= ntemplates; t++)
        rewinds(template[t])
    for (t = 1; t <= ntemplates; t++)
        if (clients[template[t]] != "")
            steps(template[t])
    printf "\n  %-66s %8s %8s %8s\n", "One at a time, nothing else going on; milliseconds", "p50", "p95", "p99"
    for (t = 1; t <= ntemplates; t++)
        single(template[t])
    targets()
    if (nmissed > 0)
        print ""
    for (i = 1; i <= nmissed; i++)
        print "Note: " missed[i]
}
