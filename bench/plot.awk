# Makes gnuplot's data of the benchmark's rows: for each method a block "x rate" of bars, then the groups' places and
# names as a last block. The bars' colours go to the file "colours", as a line for gnuplot's load.
# awk -F, -v template=bench_t100 -v colours=FILE -f bench/plot.awk results.csv

$3 == template && $5 == "cycle" && ($1 == "cycle" || $1 == "reconnect" || $1 == "rewind") {
    name = $1 == "rewind" ? "rewind" : $2
    rate[name, $4] = $7
    has[name] = 1
    if (!($4 in known)) {
        known[$4] = 1
        group[++ngroups] = $4
    }
}

# method_is(NAME, TITLE, COLOUR): the next one from the left.
function method_is(name, text, rgb) {
    method[++n] = name
    title[name] = text
    colour[name] = rgb
}

BEGIN {
    method_is("core_default", "CREATE DATABASE", "#9aa0a6")
    method_is("core_file_copy", "CREATE DATABASE, file_copy", "#c5c9ce")
    method_is("wal_log", "testdb, wal_log", "#f2c14e")
    method_is("file_copy", "testdb, file_copy", "#e58f3a")
    method_is("native_no_spares", "testdb, native, no spares", "#58a5d8")
    method_is("create_database", "CREATE DATABASE, served", "#7fb37a")
    method_is("native", "testdb, native", "#1f6fb2")
    method_is("none", "reconnect only", "#d5dbe0")
    method_is("rewind", "testdb_rewind, connection kept", "#7b4fa3")
}

END {
    for (i = 1; i <= n; i++)
        if (method[i] in has)
            shown[++nshown] = method[i]
    for (i = 1; i <= nshown; i++) {
        words = words " " colour[shown[i]]
        printf "\"%s\"\n", title[shown[i]]
        for (g = 1; g <= ngroups; g++)
            if ((shown[i], group[g]) in rate)
                print (g - 1) * (nshown + 1.5) + i, rate[shown[i], group[g]]
        printf "\n\n"
    }
    for (g = 1; g <= ngroups; g++)
        printf "%s \"%d client%s\"\n", (g - 1) * (nshown + 1.5) + (nshown + 1) / 2, group[g], group[g] == 1 ? "" : "s"
    print "colours = '" substr(words, 2) "'" > colours
}
