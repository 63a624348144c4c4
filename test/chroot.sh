# shellcheck shell=bash
# shellcheck disable=SC2154 # what lib.sh and debian.sh set
# Chroots with other Debian suites than the machine's, for test/matrix and test/package. Comes after lib.sh and debian.sh.
#
# Each is made once and kept in the cache. A run works on an overlay of it that is gone afterwards, in namespaces of its own
# and without network. However it ends, even by kill -9, nothing stays mounted or running.

# What the tests need beside PostgreSQL, and what libpq-dev depends on: a user who installs server-dev has that and no
# more, so that another header that we come to need shows here.
chroot_packages=(gcc libc6-dev make perl libipc-run-perl libssl-dev)

# Set by find_chroot(): where it is.
chroot=''

# Set by put_zabbix(): where zabbix's schema is in the chroot.
zabbix=''

# Set by the option --refresh: chroots are made anew.
refresh=''

# print_sources SUITE: prints apt's sources for a suite. Experimental comes on top of sid.
print_sources() {
    [ "$1" != experimental ] || echo "deb $mirror sid main"
    echo "deb $mirror $1 main"
}

# print_preferences MAJOR: prints the preferences that let apt take a major's packages from experimental.
print_preferences() {
    cat <<PREFERENCES
Package: libpq5 libpq-dev libpq-oauth postgresql-$1 postgresql-$1-jit postgresql-client-$1 postgresql-server-dev-$1
Pin: release a=experimental
Pin-Priority: 990
PREFERENCES
}

# make_chroot MAJOR FOLDER: makes a chroot in FOLDER/root. The development packages are unpacked, not installed: they
# would bring 700 MB of llvm along. The mirror may lag behind, hence no Check-Valid-Until; signatures are still checked.
# shellcheck disable=SC2016 # $1 is the hooks' own
make_chroot() {
    local major=$1 folder=$2 suite base part
    local essential=$folder/essential.sh customize=$folder/customize.sh options=()
    local settings=/etc/postgresql-common/createcluster.d
    suite=$(suite_of "$major") && mkdir "$folder" || return
    base=$suite
    if [ "$suite" = experimental ]; then
        base=sid
        print_preferences "$major" >"$folder/preferences"
        options+=(--setup-hook="cp $folder/preferences"' "$1/etc/apt/preferences.d/testdb"')
    fi
    print_proxy >"$folder/apt.conf"
    [ ! -s "$folder/apt.conf" ] || options+=(--aptopt="$folder/apt.conf")
    for part in doc man locale; do
        options+=(--dpkgopt="path-exclude=/usr/share/$part/*")
    done
    cat >"$essential" <<SCRIPT
set -e
mkdir -p "\$1$settings"
echo 'create_main_cluster = false' >"\$1$settings/testdb.conf"
SCRIPT
    cat >"$customize" <<SCRIPT
set -e
mkdir "\$1/tmp/unpack"
cd "\$1/tmp/unpack"
APT_CONFIG=\$MMDEBSTRAP_APT_CONFIG apt-get download postgresql-server-dev-$major libpq-dev
for package in *.deb; do
    dpkg-deb -x "\$package" "\$1"
done
rm -r "\$1/tmp/unpack"
SCRIPT
    print_sources "$suite" | nice mmdebstrap --mode=root --variant=minbase \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
        --include="$(IFS=, && echo "${chroot_packages[*]}"),postgresql-$major" "${options[@]}" \
        --essential-hook="sh $essential"' "$1"' --customize-hook="sh $customize"' "$1"' \
        "$base" "$folder/root" -
}

# find_chroot MAJOR [KIND]: sets $chroot to a major's chroot with $chroot_packages, which is made if the cache does not
# have it, or if $refresh says so; fails if it can't be. Leaves it locked, so that another run's --refresh does not take it
# away. Chroots with other packages are of another kind.
find_chroot() {
    local major=$1 kind=${2:-chroot} folder name
    name=$kind-$major-$(suite_of "$major")
    chroot=$cache/$name-$(key_of make_chroot print_sources print_preferences -- "${chroot_packages[@]}")
    lock_cache "$kind-$major" --shared
    [ -n "$refresh" ] || [ ! -d "$chroot" ] || return 0
    lock_cache "$kind-$major"
    [ -n "$refresh" ] || [ ! -d "$chroot" ] || return 0
    need_missing mmdebstrap debian-archive-keyring
    find_mirror
    folder=$chroot.new
    rm -rf --one-file-system "$cache/$name"-????????.new
    # mmdebstrap has a shell write to a file that it has opened, and dash knows no number above 9. So what was open before is closed.
    step "Debian's $(suite_of "$major") with PostgreSQL $major${2:+, to build packages}" make_chroot "$major" "$folder" \
        3>&- 4>&- 5>&- 6>&- 7>&- 8>&- || return
    rm -rf --one-file-system "$cache/$name"-????????
    mv "$folder/root" "$chroot"
    rm -rf --one-file-system "$folder"
    flock --shared 9
}

# mount_chroot FOLDER: mounts a throwaway overlay of $chroot as FOLDER/root. Where overlays don't nest, as in some
# containers, it is a copy.
mount_chroot() {
    mount -t tmpfs -o mode=755 tmpfs "$1"
    mkdir "$1"/{root,upper,work}
    if ! mount -t overlay -o "lowerdir=$chroot,upperdir=$1/upper,workdir=$1/work" overlay "$1/root" 2>/dev/null; then
        cp -a "$chroot/." "$1/root"
    fi
    mount -t proc proc "$1/root/proc"
    mount -t tmpfs -o mode=1777 tmpfs "$1/root/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$1/root/tmp"
}

# put_zabbix FOLDER: puts zabbix's schema into FOLDER/root, if test/run on the machine itself has fetched it or
# TESTDB_ZABBIX says where it is. in_chroot() passes it on.
put_zabbix() {
    local from=${TESTDB_ZABBIX:-$cache/zabbix}
    [ -d "$from" ] || return 0
    zabbix=/home/zabbix
    cp -R "$from" "$1/root$zabbix"
    chmod -R a+rX "$1/root$zabbix"
}

# in_chroot FOLDER MAJOR COMMAND...: runs it in FOLDER/root, in /home/testdb there, as the user postgres. What tells the tests
# how long to run goes with it, by the environment variables named TESTDB_*.
in_chroot() {
    local folder=$1 major=$2 name settings=()
    shift 2
    for name in "${!TESTDB_@}"; do
        case $name in
        TESTDB_CACHE | TESTDB_ZABBIX) ;;
        *) settings+=("$name=${!name}") ;;
        esac
    done
    chroot --userspec=postgres:postgres "$folder/root" env -i ${CI:+"CI=$CI"} "${settings[@]}" HOME=/tmp LC_ALL=C.UTF-8 \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin PG_CONFIG="/usr/lib/postgresql/$major/bin/pg_config" \
        ${zabbix:+"TESTDB_ZABBIX=$zabbix"} env -C /home/testdb "$@"
}

# isolated COMMAND...: runs it in namespaces of its own, gently, and ends all of it when we go.
isolated() {
    # In the background, so that a signal finds us waiting.
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --ipc --uts --net nice "$@" &
    wait $!
}
