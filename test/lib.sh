# shellcheck shell=bash
# Shared by the scripts in this folder: finds or installs PostgreSQL, builds testdb into a private folder, and runs
# throwaway servers.
#
# Nothing is built or written in the source tree, and nothing is installed beside the system's own packages: testdb is
# installed into a separate folder, which is in the server's configuration. As root, PostgreSQL runs as another user, and
# so do all commands that access its files.
#
# The folders that a script gets from prepare():
#   $build   the copy of the source, the object files, and the installed files. Must allow execution: a library cannot be
#            loaded from a file system mounted noexec, as /dev/shm is in many containers
#   $run     data directories, sockets and results, on tmpfs if there is one with enough space

# Make's own variables would affect the make that builds; psql's and libpq's would select another server.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGPASSFILE PGSERVICE PGSERVICEFILE PGOPTIONS PGDATA \
    PGSSLMODE PGCLIENTENCODING PGTZ PGDATESTYLE PGAPPNAME PGCONNECT_TIMEOUT PSQLRC

# One locale everywhere, so that messages and sort order do not depend on the machine. UTF-8, because the tests have
# multibyte names; in LANG as well, because PostgreSQL's test drivers unset LC_ALL.
export LC_ALL=C.UTF-8 LANG=C.UTF-8
unset LANGUAGE

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for the scripts that source this
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/testdb
lowest_major=15

# Set by find_postgres(), pick_user(), prepare(), start_server(), step() and run_within().
pg_config='' bindir='' major='' user='' build='' run='' port='' step_log='' job='' become=(env)

# Set by enter_group().
group='' outer=''

# Debian packages that a script needs in addition to those of need_postgres().
packages=()

# Not empty: test the testdb that is installed in PostgreSQL, and build nothing.
installed=''

# say TEXT...: prints a line.
say() {
    printf '%s\n' "$*"
}

# die TEXT...: prints an error and exits.
die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# now: prints the time in seconds, with a fraction. Some locales have a comma for the decimal point.
now() {
    printf '%s' "${EPOCHREALTIME/,/.}"
}

# since START: prints the seconds since then, with one decimal.
since() {
    awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'
}

# step TEXT COMMAND...: runs the command and prints how long it took; its output is shown only if it fails.
step() {
    local text=$1 start status=0
    shift
    start=$(now)
    step_log=$(mktemp)
    "$@" >"$step_log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        printf '%-62s %5s s\n' "$text" "$(since "$start")"
    else
        printf '%-62s  FAILED\n' "$text"
        cat "$step_log" >&2
    fi
    rm -f "$step_log"
    return "$status"
}

# is_debian: succeeds on Debian 12 and newer (testing and sid have no number).
is_debian() (
    ID='' VERSION_ID=''
    # shellcheck source=/dev/null
    [ -r /etc/os-release ] && . /etc/os-release
    [ "$ID" = debian ] && [ "${VERSION_ID:-99}" -ge 12 ]
)

# apt_install PACKAGE...: installs Debian packages. Package lists may be missing or outdated: they are fetched if the
# first try fails.
apt_install() {
    local i
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120)
    for i in 1 2; do
        "${get[@]}" install --no-install-recommends "$@" && return 0
        [ "$i" -eq 1 ] && "${get[@]}" update
    done
    return 1
}

# apt_install_postgres PACKAGE...: the same, but prevents the packages from creating and starting a server, by a setting
# that is removed afterwards.
apt_install_postgres() {
    local folder=/etc/postgresql-common/createcluster.d status=0
    if dpkg-query -W -f '${Status}' postgresql-common 2>/dev/null | grep ' installed$' >/dev/null; then
        apt_install "$@"
        return
    fi
    mkdir -p "$folder"
    echo 'create_main_cluster = false' >"$folder/testdb.conf"
    apt_install "$@" || status=$?
    rm -f "$folder/testdb.conf"
    return "$status"
}

# need PACKAGE...: installs these Debian packages as root on Debian; otherwise prints that they are needed, and exits.
need() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! is_debian; then
        die "Missing on this machine (by the names of Debian's packages): $*
Install them, as root on Debian or Ubuntu:
    apt-get update && apt-get install --no-install-recommends $*
or set PG_CONFIG to the pg_config of a PostgreSQL $lowest_major or newer that has its development files."
    fi
    say "Installing from Debian: $*"
    step '  installed' apt_install_postgres "$@" || die "Could not install: $*"
}

# use_postgres PG_CONFIG: selects the PostgreSQL of this pg_config; fails, with the reason in $missing, if it cannot build
# and run an extension.
use_postgres() {
    local version
    missing="$1 does not run"
    version=$("$1" --version 2>/dev/null) || return 1
    major=$(sed -E 's/^[^0-9]*([0-9]+).*/\1/' <<<"$version")
    bindir=$("$1" --bindir)
    missing="$1 is of version $major, and $lowest_major or newer is needed"
    [ "$major" -ge "$lowest_major" ] || return 1
    missing="$1 has no development files (pgxs.mk, postgres.h) with it"
    [ -r "$("$1" --pgxs)" ] && [ -r "$("$1" --includedir-server)/postgres.h" ] || return 1
    missing="there is no server (initdb, postgres, psql) in $bindir"
    [ -x "$bindir/initdb" ] && [ -x "$bindir/postgres" ] && [ -x "$bindir/psql" ] || return 1
    pg_config=$1
}

# default_major: prints the major version of the distribution, from its package lists, or if there are none, as on a new
# machine, from a list of known distributions. Prints nothing if it is unknown.
default_major() (
    major=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p')
    ID='' VERSION_ID=''
    # shellcheck source=/dev/null
    [ -n "$major" ] || [ ! -r /etc/os-release ] || . /etc/os-release
    case $ID-$VERSION_ID in
    ubuntu-22.04) major=14 ;;
    debian-12) major=15 ;;
    ubuntu-24.04) major=16 ;;
    debian-13 | ubuntu-25.*) major=17 ;;
    ubuntu-26.04) major=18 ;;
    esac
    printf '%s' "$major"
)

# find_postgres: selects the PostgreSQL to use: that of $PG_CONFIG if set, else of pg_config in the PATH, else the newest
# of Debian's. On failure $major is the version to install: that of the newest server, else the distribution's default.
find_postgres() {
    local candidate found=''
    if [ -n "${PG_CONFIG:-}" ]; then
        candidate=$(command -v "$PG_CONFIG") || die "PG_CONFIG=$PG_CONFIG is not there"
        use_postgres "$candidate" || die "PG_CONFIG: $missing."
        return 0
    fi
    if candidate=$(command -v pg_config) && use_postgres "$candidate"; then
        return 0
    fi
    while read -r candidate; do
        use_postgres "$candidate" && return 0
        [ "$major" -ge "$lowest_major" ] && found=${found:-$major}
    done < <(find /usr/lib/postgresql -maxdepth 3 -path '*/bin/pg_config' 2>/dev/null | sort -t/ -k5,5nr)
    major=${found:-$(default_major)}
    return 1
}

# need_postgres: ensures that PostgreSQL with its development files, a compiler and $packages are installed, or exits.
need_postgres() {
    [ -n "$installed" ] || command -v gcc >/dev/null || command -v cc >/dev/null || packages+=(gcc libc6-dev)
    command -v make >/dev/null || packages+=(make)
    if ! find_postgres; then
        if [ -z "$major" ] && [ "$(id -u)" -eq 0 ] && is_debian; then
            step 'Fetching package lists' apt-get -q update || die 'Could not fetch package lists.'
            find_postgres || true
        fi
        [ -z "$major" ] || [ "$major" -ge "$lowest_major" ] ||
            die "This system has packages of PostgreSQL $major, and $lowest_major or newer is needed: see https://apt.postgresql.org"
        packages+=("postgresql${major:+-$major}" "postgresql-server-dev-${major:-all}")
    fi
    need "${packages[@]}"
    find_postgres || die "PostgreSQL was installed, but $missing."
}

# as_user COMMAND...: runs it as the server's user.
as_user() {
    HOME=$run "${become[@]}" "$@"
}

# pick_user: as root, selects the server's user, since PostgreSQL refuses to run as root.
pick_user() {
    [ "$(id -u)" -eq 0 ] || return 0
    command -v runuser >/dev/null || die 'As root this needs runuser (of util-linux); or run it as another user.'
    for user in postgres nobody daemon; do
        if id -u "$user" >/dev/null 2>&1; then
            become=(runuser -u "$user" --)
            return 0
        fi
    done
    die 'As root this needs another user to run the server as, such as postgres or nobody.'
}

# new_folder MEGABYTES CHECK CANDIDATE...: creates and prints a private folder of the server's user in the first of these
# that has the space and passes the check. Paths with white space are skipped, since make does not support them.
new_folder() {
    local room=$1 check=$2 parent folder free
    shift 2
    for parent; do
        [[ -d $parent && -w $parent && $parent != *[[:space:]]* ]] || continue
        free=$(df -Pm "$parent" 2>/dev/null | awk 'NR == 2 { print $4 }')
        [ "${free:-0}" -ge "$room" ] || continue
        folder=$(mktemp -d "$parent/testdb.XXXXXX") || continue
        if [ -n "$user" ]; then
            chown "$user:" "$folder"
        fi
        if "$check" "$folder"; then
            printf '%s' "$folder"
            return 0
        fi
        rm -rf "$folder"
    done
    return 1
}

# can_execute FOLDER: succeeds if the server's user can execute a file in it.
can_execute() {
    local status=0
    printf '#!/bin/sh\n' >"$1/try"
    chmod 755 "$1/try"
    (cd / && run=$1 as_user "$1/try") 2>/dev/null || status=$?
    rm -f "$1/try"
    return "$status"
}

# on_tmpfs FOLDER: succeeds if it is on a tmpfs, and accessible to the server's user.
on_tmpfs() {
    [ "$(stat -f -c %T "$1" 2>/dev/null)" = tmpfs ] && (cd / && run=$1 as_user test -w "$1")
}

# prepare MEGABYTES [BUILD_MEGABYTES]: creates $run with the first amount of space, and $build with the second, or 200.
prepare() {
    local temporary=("${TMPDIR:-/tmp}" /tmp /var/tmp)
    pick_user
    build=$(new_folder "${2:-200}" can_execute /dev/shm "${temporary[@]}") ||
        die "No folder to build in: /dev/shm, ${temporary[*]} have no space or forbid execution."
    if ! run=$(new_folder "$1" on_tmpfs /dev/shm "${XDG_RUNTIME_DIR:-/dev/shm}" "${temporary[@]}"); then
        run=$(new_folder "$1" can_execute "${temporary[@]}") || die "No folder with $1 MB of space for a server's data."
        say "No tmpfs with $1 MB of space here: data is on disk, in $run, and everything takes longer."
    fi
    cd "$run" || exit
    as_user "$bindir/postgres" --version >/dev/null 2>&1 || die "The user $user cannot run $bindir/postgres."
}

# copy_source: copies the files needed by a build and the tests to $build/src, without object files.
copy_source() {
    local part
    mkdir "$build/src"
    for part in Makefile testdb.control META.json CHANGELOG.md README.md CONTRIBUTING.md LICENSE docs docker debian bin sql src specs expected t; do
        [ -e "$top/$part" ] && cp -R "$top/$part" "$build/src/"
    done
    tar -C "$top" --exclude=node_modules --exclude=.venv --exclude=target -c examples | tar -x -C "$build/src"
    mkdir "$build/src/test"
    cp -R "$top/test/unit" "$top/test/limits" "$build/src/test/"
    find "$build/src" \( -name '*.o' -o -name '*.bc' -o -name '*.so' \) -delete
    if [ -n "$user" ]; then
        chown -R "$user:" "$build/src"
    fi
}

# get_zabbix: unpacks Zabbix's schema from Debian's package into the cache, without installing it. Works for any user if
# apt has its lists; root also fetches them.
get_zabbix() {
    local folder=$cache/zabbix work sandbox=()
    [ -s "$folder/schema.sql.gz" ] && return 0
    command -v apt-get >/dev/null || return 1
    work=$(mktemp -d) || return 1
    # As root, apt would download as a user that cannot write here.
    [ "$(id -u)" -ne 0 ] || sandbox=(-o APT::Sandbox::User=root)
    (
        cd "$work" || exit 1
        apt-get -q "${sandbox[@]}" download zabbix-server-pgsql ||
            { [ "$(id -u)" -eq 0 ] && apt-get -q update &&
                apt-get -q "${sandbox[@]}" download zabbix-server-pgsql; } || exit 1
        dpkg -x zabbix-server-pgsql_*.deb unpacked || exit 1
        # Renamed as a whole, so that an interrupted run leaves nothing incomplete.
        rm -rf "$folder" "$folder.new" && mkdir -p "$folder.new" &&
            cp unpacked/usr/share/zabbix-server-pgsql/{schema,images,data}.sql.gz "$folder.new/" &&
            mv "$folder.new" "$folder"
    )
    local status=$?
    rm -rf "$work"
    return "$status"
}

# load_zabbix DATABASE OPTION...: fills a database of start_server's as Zabbix's packages do, from $TESTDB_ZABBIX if set, else
# from what get_zabbix has left. The options are psql's. It takes about 20 s, since there is an INSERT for each row.
load_zabbix() {
    local part
    for part in schema images data; do
        gunzip -c "${TESTDB_ZABBIX:-$cache/zabbix}/$part.sql.gz" | psql_demo "$@" -1 -f - >/dev/null || return
    done
}

# cannot_reach FILE: succeeds if the client of a registry has written there that it can't reach it.
cannot_reach() {
    grep -E 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|NewConnectionError|ReadTimeoutError' "$1" ||
        grep -E 'dial tcp|i/o timeout|[Cc]ould not resolve|[Cc]ould ?n.t (connect|resolve)|UnknownHostException' "$1" ||
        grep -E 'Connection (refused|timed out)' "$1"
} >/dev/null

# run_make ARGUMENT...: runs make for the selected PostgreSQL, as the server's user. $DEBUG and $COPT are passed in the
# environment.
run_make() {
    as_user make --no-print-directory PG_CONFIG="$pg_config" ${CC:+"CC=$CC"} "$@"
}

# run_within SECONDS COMMAND...: runs it as the server's user, in a process group that is terminated after this time (the
# status is 124 then), or when this script exits.
run_within() {
    local status=0
    HOME=$run timeout "$1" "${become[@]}" "${@:2}" &
    job=$!
    wait "$job" || status=$?
    job=''
    return "$status"
}

# has_setting NAME: succeeds if the server has this configuration parameter.
has_setting() {
    "$bindir/postgres" --describe-config 2>/dev/null | grep "^$1"$'\t' >/dev/null
}

# build_testdb: compiles $build/src and installs the result into $build/installed, or into PostgreSQL itself if this
# server cannot load an extension from elsewhere: before 18, except with Debian's patch (extension_destdir).
build_testdb() {
    run_make -C "$build/src" -j2 || return
    if [ "$major" -ge 18 ] || has_setting extension_destdir; then
        run_make -C "$build/src" install DESTDIR="$build/installed"
    elif [ -w "$("$pg_config" --pkglibdir)" ] && [ -w "$("$pg_config" --sharedir)/extension" ]; then
        # With the privileges of the calling user.
        (become=(env) && run_make -C "$build/src" install)
    else
        echo "This PostgreSQL $major loads extensions from its own folders only, and $("$pg_config" --pkglibdir)" \
            "is not writable: run this as its owner, or with PostgreSQL 18 or newer."
        return 1
    fi
}

# check_installed: fails, with a message, unless this version of testdb is installed in PostgreSQL.
check_installed() {
    local control
    control=$("$pg_config" --sharedir)/extension/testdb.control
    if [ ! -r "$control" ] || [ ! -r "$("$pg_config" --pkglibdir)/testdb.so" ]; then
        echo "testdb is not installed in PostgreSQL $major."
        return 1
    fi
    cmp "$top/testdb.control" "$control"
}

# print_config: prints the configuration lines by which a server finds and preloads the result of build_testdb().
print_config() {
    local library share
    library=$build/installed$("$pg_config" --pkglibdir)
    share=$build/installed$("$pg_config" --sharedir)
    if [ -d "$library" ]; then
        # Preloading uses dynamic_library_path, CREATE EXTENSION the other parameter.
        echo "dynamic_library_path = '$library:\$libdir'"
        if [ "$major" -ge 18 ]; then
            echo "extension_control_path = '$share:\$system'"
        else
            echo "extension_destdir = '$build/installed'"
        fi
    fi
    echo "shared_preload_libraries = 'testdb'"
}

# free_port: prints the first unused TCP port from 54321 on.
free_port() {
    local candidate
    for ((candidate = 54321; candidate < 54521; candidate++)); do
        if ! (: <"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; then
            printf '%s' "$candidate"
            return 0
        fi
    done
    return 1
}

# start_server PORT PASSWORD: creates and starts a server in $run/data that has testdb in its database postgres, with its
# socket in $run, which only the server's user and root can access. With a password it listens on localhost as well.
start_server() {
    local options=(-A trust)
    if [ -n "$2" ]; then
        options=(--auth-local=trust --auth-host=scram-sha-256 --pwfile="$run/password")
        printf '%s\n' "$2" >"$run/password"
        chmod 644 "$run/password"
    fi
    as_user "$bindir/initdb" -D "$run/data" -U postgres -E UTF8 --no-sync "${options[@]}" || return
    rm -f "$run/password"
    {
        print_config
        cat <<-END
			port = $1
			listen_addresses = '${2:+localhost}'
			unix_socket_directories = '$run'
			fsync = off
			full_page_writes = off
			synchronous_commit = off
			wal_level = minimal
			max_wal_senders = 0
			shared_buffers = 128MB
			max_connections = 100
			autovacuum = on
		END
    } >>"$run/data/postgresql.conf"
    as_user "$bindir/pg_ctl" start -s -w -D "$run/data" -l "$run/server.log" || { tail -n 20 "$run/server.log" && return 1; }
    port=$1
    psql_demo postgres -c 'CREATE EXTENSION testdb'
}

# psql_demo DATABASE OPTION...: runs psql on that server; it stops at the first error.
psql_demo() {
    "$bindir/psql" -X -q -v ON_ERROR_STOP=1 -h "$run" -p "$port" -U postgres -d "$1" "${@:2}"
}

# load_template: creates demo_template on that server.
load_template() {
    psql_demo postgres -c 'CREATE DATABASE demo_template'
    psql_demo demo_template -f "$top/test/template.sql"
    psql_demo postgres -c 'ALTER DATABASE demo_template IS_TEMPLATE true'
}

# stop_servers FOLDER: stops every server whose data directory is below it, immediately, since the data will be removed.
stop_servers() {
    local file
    while read -r file; do
        as_user "$bindir/pg_ctl" stop -s -m immediate -D "$(dirname "$file")" >/dev/null 2>&1 || true
    done < <(find "$1" -name postmaster.pid 2>/dev/null)
}

# enter_group MEGABYTES: creates a control group with this memory limit, and moves this script, with the processes that it
# will start, into it; $group is its folder. Fails if that is impossible: it requires root. With version 2 of the interface a
# group that has processes, such as that of a login, cannot hand the memory controller on, so the new one is created in the
# nearest group above that does, or in the root, which may have both.
enter_group() {
    local here root=/sys/fs/cgroup file=memory.limit_in_bytes
    [ "$(id -u)" -eq 0 ] || return
    outer=$root/memory$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
    here=$outer
    if [ ! -e "$outer/$file" ]; then
        [ "$(stat -f -c %T "$root")" = cgroup2fs ] || return
        outer=$root$(sed -n 's/^0:://p' /proc/self/cgroup) file=memory.max
        here=${outer%/}
        until grep -qw memory "$here/cgroup.subtree_control"; do
            [ "$here" != $root ] || { echo +memory >$root/cgroup.subtree_control && break; } || return
            here=${here%/*}
        done 2>/dev/null
    fi
    here+=/testdb.$BASHPID
    mkdir "$here" 2>/dev/null || return
    group=$here
    if ! { echo $(($1 << 20)) >"$here/$file" && echo $BASHPID >"$here/cgroup.procs"; } 2>/dev/null; then
        leave_group
        return 1
    fi
}

# leave_group: moves this script back, and removes the group, if there is one.
leave_group() {
    [ -n "$group" ] || return 0
    echo $BASHPID >"$outer/cgroup.procs"
    for _ in {1..50}; do
        rmdir "$group" 2>/dev/null && break
        sleep 0.1
    done
    group=''
}

# mount_new TYPE FOLDER MEGABYTES: makes a file system of this type in a file beside the folder, and mounts it there for the
# servers' user. What is freed in it is freed in the file. Fails where that is impossible: it takes root, the kernel's consent and the
# program that makes such a one.
mount_new() {
    [ "$(id -u)" -eq 0 ] && command -v "mkfs.$1" >/dev/null || return
    mkdir -p "$2" && truncate -s "$3M" "$2.image" && "mkfs.$1" -q "$2.image" && mount -o loop,discard "$2.image" "$2" &&
        { [ -z "$user" ] || chown "$user:" "$2"; }
} 2>/dev/null

# unmount_below FOLDER: unmounts all that is mounted in it.
unmount_below() {
    local at
    while read -r at; do
        umount "$at" 2>/dev/null || umount -l "$at" || true
    done < <(awk -v folder="$1/" 'index($2, folder) == 1 { print $2 }' /proc/self/mounts 2>/dev/null)
}

# clean_up: stops the servers and removes the folders. Can be called at any point, repeatedly.
clean_up() {
    cd /
    rm -f "$step_log"
    # shellcheck disable=SC2086 # one process ID or several
    if [ -n "$job" ]; then
        kill $job 2>/dev/null || true
        wait $job || true
        job=''
    fi
    if [ -n "$run" ]; then
        stop_servers "$run"
        unmount_below "$run"
        rm -rf "$run"
    fi
    leave_group
    if [ -n "$build" ]; then
        rm -rf "$build"
    fi
    build='' run=''
}

# clean_up_at_exit: ensures that clean_up() is called when the script exits, for any reason.
clean_up_at_exit() {
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
}
