# shellcheck shell=bash
# shellcheck disable=SC2154 # what lib.sh and debian.sh set
# A PostgreSQL with assertions, built from Debian's source package, for test/assert and test/valgrind. Comes after
# lib.sh and debian.sh.

# What the tests use of contrib and of core's own test modules. What a major does not have is left out.
server_modules=(contrib/{amcheck,hstore,pageinspect,pg_prewarm,pg_freespacemap,pg_stat_statements,pg_visibility,test_decoding}
    src/test/modules/injection_points)

# Set by make_server() and copy_server().
server='' copy=''

# init_source_apt FOLDER SUITE: makes a folder with which apt, by APT_CONFIG, sees one suite's source packages and
# nothing of the system's settings. The mirror may lag behind, hence no Check-Valid-Until; signatures are still checked.
init_source_apt() {
    local folder=$1 suite=$2
    mkdir -p "$folder"/{lists/partial,cache/archives/partial,empty}
    : >"$folder/status"
    cat >"$folder/apt.conf" <<CONF
Dir::Etc::SourceList "$folder/sources.list";
Dir::Etc::SourceParts "$folder/empty";
Dir::Etc::Preferences "$folder/preferences";
Dir::Etc::PreferencesParts "$folder/empty";
Dir::State "$folder";
Dir::State::Lists "$folder/lists";
Dir::State::status "$folder/status";
Dir::Cache "$folder/cache";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
    print_proxy >>"$folder/apt.conf"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
        >"$folder/sources.list"
}

# fetch_source MAJOR FOLDER: unpacks Debian's newest source of a major into FOLDER/src, its version into FOLDER/version.
# The index may name a version whose files are gone from the mirror; then it is the newest one that is there.
fetch_source() {
    local major=$1 folder=$2 version
    local -x APT_CONFIG=$folder/apt/apt.conf
    init_source_apt "$folder/apt" "$(suite_of "$major")" || return
    apt-get -q update || return
    for version in $(apt-cache showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -rVu); do
        if (cd "$folder" && apt-get -q source --download-only "postgresql-$major=$version"); then
            # apt has checked the signatures: dpkg-source need not know the uploaders' keys. Without Debian's
            # patches, which fix where the installed files lie, so that a copy would not find its own.
            dpkg-source --no-check --skip-patches -x "$folder/postgresql-${major}_${version#*:}.dsc" "$folder/src" &&
                echo "$version" >"$folder/version"
            return
        fi
        echo "postgresql-$major $version is not to be had."
    done
    return 1
}

# compile_server FOLDER PREFIX CFLAGS: configures and builds FOLDER/src, and installs it below FOLDER/installed.
compile_server() {
    local folder=$1 prefix=$2 module options
    options=(--enable-cassert --enable-debug --enable-tap-tests --without-icu --without-readline --without-llvm)
    if grep -q enable-injection-points "$folder/src/configure"; then
        options+=(--enable-injection-points)
    fi
    cd "$folder/src" || return
    # Libraries are found relative to the programs, so that a copy of the server works wherever it lies.
    nice ./configure --prefix="$prefix" "${options[@]}" CFLAGS="-O1 -g $3" --disable-rpath \
        LDFLAGS_EX="-Wl,-rpath,'\$\$ORIGIN/../lib'" || return
    nice make -s -j2 && make -s install DESTDIR="$folder/installed" || return
    for module in "${server_modules[@]}"; do
        if [ -d "$module" ]; then
            nice make -s -j2 -C "$module" && make -s -C "$module" install DESTDIR="$folder/installed" || return
        fi
    done
    cp src/tools/valgrind.supp "$folder/version" "$folder/installed$prefix/"
}

# make_server MAJOR KIND CFLAGS: sets $server to the folder of a server of this kind, which is built if the cache does
# not have it.
make_server() {
    local major=$1 kind=$2 cflags=$3 folder
    suite_of "$major" >/dev/null || die "No Debian suite has PostgreSQL $major."
    server=$cache/$kind-$major-$(key_of fetch_source compile_server -- "${server_modules[@]}" "$cflags")
    [ ! -d "$server" ] || return 0
    lock_cache "$kind-$major"
    if [ ! -d "$server" ]; then
        need_missing gcc libc6-dev make perl bison flex zlib1g-dev libipc-run-perl dpkg-dev debian-archive-keyring \
            xz-utils bzip2 patch
        find_mirror
        folder=$server.new
        rm -rf "$cache/$kind-$major"-????????.new
        mkdir "$folder"
        step "PostgreSQL $major's source, from Debian" fetch_source "$major" "$folder" || exit
        # In a subshell, since it changes the folder.
        (step "Building it for test/$kind, once" compile_server "$folder" "$server" "$cflags") || exit
        rm -rf "$cache/$kind-$major"-????????
        mv "$folder/installed$server" "$server"
        rm -rf "$folder"
    fi
    unlock_cache
}

# copy_server: copies $server to $copy, a throwaway place that every user can read and that test/run may install into.
# It goes away when the script ends.
copy_server() {
    copy=$(new_folder 300 can_execute /dev/shm "${TMPDIR:-/tmp}" /var/tmp) || die 'No folder with room for a server.'
    trap 'rm -rf "$copy"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
    cp -a "$server/." "$copy"
    chmod -R u=rwX,go=rX "$copy"
}
