
# A small file system in memory for a server's data, which takes a namespace of mounts where we are somebody's root. To be used before
# any other module: the test is started again in one, as the same user (postgres does not run as root), if that is possible.

package TestdbNamespace;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(can_mount_small mount_small);

BEGIN
{
	my @inside = $> == 0 ? () : qw(unshare --user --mount --map-current-user --keep-caps);
	if (@inside && !$ENV{TESTDB_NAMESPACE})
	{
		my $can =
		  'd=$(mktemp -d) && mount -t tmpfs -o size=1m none "$d"; s=$?; umount "$d" 2>/dev/null; rmdir "$d"; exit $s';
		$ENV{TESTDB_NAMESPACE} =
		  system("unshare --user --mount --map-current-user --keep-caps sh -c '$can' >/dev/null 2>&1") == 0
		  ? 'yes'
		  : 'no';
		if ($ENV{TESTDB_NAMESPACE} eq 'yes')
		{
			exec @inside, $^X, map({ "-I$_" } @INC), $0, @ARGV or die "unshare: $!";
		}
	}
}

# Whether that was possible. Who is not allowed to make one skips what needs it.
sub can_mount_small { return ($ENV{TESTDB_NAMESPACE} // '') eq 'yes' }

# Mounts a tmpfs with these options as the data directory of a server, before its init().
sub mount_small
{
	my ($node, $options) = @_;
	my $data = $node->data_dir;
	mkdir $data or die "mkdir $data: $!";
	system('mount', '-t', 'tmpfs', '-o', $options, 'testdb', $data) == 0 or die "mount: $?";
	chmod 0700, $data;
	return;
}

1;
