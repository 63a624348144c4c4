
# On file systems that share the blocks of copied files (XFS, btrfs), and on one that does not (ext4): clones are what they are on
# a tmpfs, and where blocks are shared the first one and its snapshot take next to no space.
#
# In a short run, only on XFS. test/run makes the file systems, if it may: TESTDB_MOUNTS has the folders, each named like its type.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my @mounts = split ' ', $ENV{TESTDB_MOUNTS} // '';
@mounts = grep { /xfs$/ } @mounts unless $ENV{TESTDB_LONG};
plan skip_all => 'no right to mount a file system in a file, or no program to make one' unless @mounts;

# How many bytes are occupied there, once all is written.
sub occupied
{
	my ($dir) = @_;
	system_or_bail('sync', '-f', $dir);
	my ($kb) = `df -Pk $dir | tail -n 1` =~ /^\S+\s+\d+\s+(\d+)/;
	return $kb * 1024;
}

for my $dir (@mounts)
{
	my $type = basename($dir);
	local $PostgreSQL::Test::Utils::tmp_check = $dir;
	# WAL segments that are created meanwhile take no space until they are written.
	my $node = TestdbCluster->new_server(
		$type, q{
wal_level = minimal
wal_init_zero = off
max_wal_senders = 0
testdb.min_free_space = 8MB
testdb.recycled = 2
});
	my $admin = $node->session('postgres');

	run($admin, 'CREATE DATABASE regression_template IS_TEMPLATE true');
	$node->safe_psql(
		'regression_template', q{
		CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) AS t FROM generate_series(1, 50000) i;
		CREATE TABLE small (id serial PRIMARY KEY, t text);
		INSERT INTO small (t) VALUES ('template')});
	# What reads it later sets no hint bits, which the background writer would write to its files at some time.
	$node->safe_psql('regression_template', 'VACUUM (FREEZE)');
	run($admin, 'CHECKPOINT');
	my $template = oid_of($admin, 'regression_template');
	my $size = run($admin, "SELECT pg_database_size($template)");
	cmp_ok($size, '>', 50_000_000, "$type: the template is large");

	my $before = occupied($dir);
	my @clones = map { run($admin, q{SELECT testdb_clone('regression_template')}) } 1 .. 2;
	my $taken = occupied($dir) - $before;
	if ($type eq 'ext4')
	{
		cmp_ok($taken, '>=', 2 * $size, "$type: two clones take the space of two");
	}
	else
	{
		cmp_ok($taken, '<', $size / 2, "$type: two clones and a snapshot share the template's blocks");
	}
	$node->is_same_database($admin, oid_of($admin, $_), $template, "$type: a clone") for @clones;

	# What is written in one is seen in no other, and goes when it is recycled, reset or rewound.
	my @oids = map { oid_of($admin, $_) } @clones;
	my $change = q{UPDATE big SET t = 'changed' WHERE i % 7 = 0; INSERT INTO small (t) VALUES ('new'); DROP TABLE big};
	$node->safe_psql($_, $change) for @clones;
	is($node->safe_psql('regression_template', q{SELECT count(*) FROM big WHERE t = 'changed'}),
		0, "$type: the template has no change");
	$node->is_same_database($admin, oid_of($admin, run($admin, q{SELECT testdb_clone('regression_template')})),
		$template, "$type: nor has another clone");
	run($admin, "SELECT testdb_drop('$clones[0]')");
	my $name = $node->spare_of($oids[0], $clones[0]);
	ok($name, "$type: a dropped clone is recycled");
	is(differences($node->files_of($template), $node->files_of($oids[0])), '', "$type: with the template's files");
	run($admin, "SELECT testdb_reset('$clones[1]')");
	$node->is_same_database($admin, $oids[1], $template, "$type: a reset clone");

	my $inside = $node->session($clones[1]);
	run($inside, $_) for split /; /, $change;
	run($admin, "SELECT testdb_rewind('$clones[1]')");
	is(run($inside, 'SELECT count(*), count(t) FROM big'), '50000|50000', "$type: a rewound clone has its table again");
	run($inside, q{INSERT INTO small (t) VALUES ('kept')});
	$inside->close;

	# A clone in use is whole after a crash.
	$admin->close;
	$node->stop('immediate');
	$node->start;
	$admin = $node->session('postgres');
	is($node->safe_psql($clones[1], 'SELECT max(t), count(*) FROM small'),
		'template|2', "$type: a clone in use survives a crash");
	is($node->safe_psql($clones[1], 'SELECT count(DISTINCT md5(t)) FROM big'), 50000, "$type: whole");
	$node->is_same_database($admin, oid_of($admin, run($admin, q{SELECT testdb_clone('regression_template')})),
		$template, "$type: a clone after the crash");
	run($admin, 'SELECT testdb_drop_all()');
	$admin->close;
	$node->stop;
	unlike(slurp_file($node->logfile), qr/(?:PANIC|ERROR|WARNING):/, "$type: the log says nothing bad");
}

done_testing();
