# shellcheck shell=bash
# Shared by the benchmarks that are written in Python, after test/lib.sh: psycopg, and a line about the machine.

psycopg=3.3.9 python=$cache/bench-peers-3.3.9

# need_python: adds what a venv needs to $packages.
need_python() {
    command -v python3 >/dev/null && python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
}

# make_python: a venv with psycopg.
make_python() {
    mkdir -p "$cache"
    rm -rf "$python.new"
    python3 -m venv "$python.new" &&
        "$python.new/bin/pip" install -q --disable-pip-version-check "psycopg==$psycopg" "psycopg-binary==$psycopg" &&
        rm -rf "$python" && mv "$python.new" "$python"
}

# get_python: makes that, unless it is there.
get_python() {
    [ -d "$python" ] || step 'psycopg' make_python || exit 1
}

# say_machine LOAD: what this was measured on, and the load average before and after.
say_machine() {
    say "$("$bindir/postgres" --version), $(nproc) processors, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), data on" \
        "$(stat -f -c %T "$run"); load average before and after: $1, $(cut -d ' ' -f 1 /proc/loadavg)"
}
