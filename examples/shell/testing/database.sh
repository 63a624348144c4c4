# shellcheck shell=sh
# Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use. It is read by a script that
# is a test file for prove: it prints a line for each test. Its commands find their database by DATABASE_URL.
set -eu

# Where testdb is. What a test gets is another database on this server.
ADMIN_URL=${ADMIN_URL:-postgresql://postgres:postgres@localhost:5435/postgres}
# The template is made from the migrations, by the script that comes first; the others wait for it. After a change of a
# migration there is another one.
template=$(testdb-template --url "$ADMIN_URL" --name shop --files 'migrations/*.sql' -- bin/migrate)
number=0 failed=0 status=0 same=''

# call FUNCTION: calls a function of testdb, in SQL.
call() { psql -XAtqc "SELECT $1" "$ADMIN_URL"; }
# A run that is killed leaves its databases no longer than this: there is no connection here that they could go with.
clone() { call "testdb_clone('$template', lifetime => '${TESTDB_LIFETIME:-20 minutes}')"; }

# run_in DATABASE NAME COMMAND...: says how it went. The command runs aside, so that set -e ends it and not this.
run_in() {
    export DATABASE_URL="${ADMIN_URL%/*}/$1"
    name=$2 status=0 number=$((number + 1))
    shift 2
    (set -e && "$@") &
    wait $! || status=$? failed=1
    [ "$status" -eq 0 ] && echo "ok $number - $name" || echo "not ok $number - $name"
}

# with_database NAME COMMAND...: a test in a database of its own.
with_database() {
    database=$(clone)
    run_in "$database" "$@"
    [ "$status" -ne 0 ] || call "testdb_drop('$database')" >/dev/null
    [ "$status" -eq 0 ] || call "testdb_keep('$database', '2 days')"
    [ "$status" -eq 0 ] || echo "# Kept for 2 days: psql \"$(echo "$DATABASE_URL" | sed 's,:[^:@/]*@,@,')\"" >&2
}

# with_same NAME COMMAND...: a test in this script's, which is what the template is again before each test.
with_same() {
    same=${same:-$(clone)}
    call "testdb_rewind('$same')" >/dev/null
    run_in "$same" "$@"
}

# done_testing: at the end of the script.
done_testing() {
    [ -z "$same" ] || call "testdb_drop('$same')" >/dev/null
    echo "1..$number"
    exit "$failed"
}

# equal VALUE EXPECTED
equal() { [ "$1" = "$2" ] || { echo "# \"$1\" instead of \"$2\"" >&2 && return 1; }; }
