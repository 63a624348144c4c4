# shellcheck shell=sh
# Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use. To be read by a script that
# is a test file for prove: it prints a line for each test.
#
#   with_database NAME COMMAND...   runs a test in a database of its own
#   with_same NAME COMMAND...       in this script's, which is what the template is again before each test
#   done_testing                    at the end of the script
#
# COMMAND finds its database by DATABASE_URL, and fails as scripts do with set -e.
set -eu

# Where testdb is. What a test gets is another database on this server.
ADMIN_URL=${ADMIN_URL:-postgresql://postgres:postgres@localhost:5435/postgres}
# A run that is killed leaves its databases no longer than this: there is no connection here that they could go with.
lifetime=${TESTDB_LIFETIME:-20 minutes}
# The template is made from the migrations, by the script that comes first; the others wait for it. After a change of a
# migration there is another one.
template=$(testdb-template --url "$ADMIN_URL" --name shop --files 'migrations/*.sql' -- bin/migrate)
name='' number=0 failed=0 same=''

# call STATEMENT [DATABASE]: with :'database', :'template', :'lifetime', :'label'.
call() {
    echo "$1" | psql -XAtq -v ON_ERROR_STOP=1 -v database="${2:-}" -v template="$template" -v lifetime="$lifetime" \
        -v label="$name" "$ADMIN_URL"
}
clone() { call "SELECT testdb_clone(:'template', lifetime => :'lifetime', label => left(:'label', 100))"; }

# run_in DATABASE COMMAND...: says how it went, and sets $status. The command runs aside, so that set -e ends it and not this.
run_in() {
    number=$((number + 1)) status=0 DATABASE_URL=${ADMIN_URL%/*}/$1
    export DATABASE_URL
    shift
    (set -e && "$@") &
    wait $! || status=$?
    [ "$status" -eq 0 ] || { failed=1 && printf 'not '; }
    echo "ok $number - $name"
}

with_database() {
    name=$1
    database=$(clone)
    shift
    run_in "$database" "$@"
    if [ "$status" -eq 0 ]; then
        call "SELECT testdb_drop(:'database')" "$database" >/dev/null
    else
        call "SELECT testdb_keep(:'database', '2 days')" "$database" >/dev/null
        echo "# Kept for 2 days: psql \"$(echo "$DATABASE_URL" | sed 's,:[^:@/]*@,@,')\"" >&2
    fi
}

with_same() {
    name=$1
    shift
    same=${same:-$(clone)}
    call "SELECT testdb_rewind(:'database')" "$same" >/dev/null
    run_in "$same" "$@"
}

done_testing() {
    [ -z "$same" ] || call "SELECT testdb_drop(:'database')" "$same" >/dev/null
    echo "1..$number"
    exit "$failed"
}

# equal VALUE EXPECTED
equal() {
    [ "$1" = "$2" ] || { echo "# \"$1\" instead of \"$2\"" >&2 && return 1; }
}
