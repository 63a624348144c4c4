# Makes gnuplot's data of the benchmark's rows: for each method a block "x rate" of bars, then the groups' places and
# names as a last block. awk -F, -v template=bench_t100 -f bench/plot.awk results.csv

$3 == template && $5 == "cycle" && ($1 == "cycle" || $1 == "reconnect") {
    rate[$2, $4] = $7
    if (!($2 in has))
        has[$2] = 1
    if (!($4 in known)) {
        known[$4] = 1
        group[++ngroups] = $4
    }
}

BEGIN {
    n = split("core_default core_file_copy wal_log file_copy native_no_spares native none", method, " ")
    title["core_default"] = "CREATE DATABASE"
    title["core_file_copy"] = "CREATE DATABASE, file_copy"
    title["wal_log"] = "testdb, wal_log"
    title["file_copy"] = "testdb, file_copy"
    title["native_no_spares"] = "testdb, native, no spares"
    title["native"] = "testdb, native"
    title["none"] = "reconnect only (limit)"
}

END {
    for (i = 1; i <= n; i++)
        if (method[i] in has)
            shown[++nshown] = method[i]
    for (i = 1; i <= nshown; i++) {
        printf "\"%s\"\n", title[shown[i]]
        for (g = 1; g <= ngroups; g++)
            if ((shown[i], group[g]) in rate)
                print (g - 1) * (nshown + 1.5) + i, rate[shown[i], group[g]]
        printf "\n\n"
    }
    for (g = 1; g <= ngroups; g++)
        printf "%s \"%d client%s\"\n", (g - 1) * (nshown + 1.5) + (nshown + 1) / 2, group[g], group[g] == 1 ? "" : "s"
}
