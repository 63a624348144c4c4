
# Where there is no room for what a clone must get back, nothing of it is touched: reset and rewind are refused, and the
# clone stays as it is. Recycling removes the clone instead. testdb.min_free_space is kept free in any case.
#
# The file system is a small one in memory; who is not allowed to make one skips this.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use TestdbNamespace;

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

plan skip_all => 'no right to mount a file system' unless can_mount_small();

my $template = 'regression_template';
my $node = TestdbCluster->new('space');
my $data = $node->data_dir;
mount_small($node, 'size=600m,nr_inodes=8000');
$node->init;
$node->append_conf(
	'postgresql.conf', q{
log_statement = none
autovacuum = off
max_connections = 20
shared_buffers = 16MB
max_wal_size = 64MB
wal_level = minimal
max_wal_senders = 0
wal_recycle = off
testdb.spares = 0
testdb.min_free_space = 32MB
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION testdb');
my $admin = $node->session('postgres');
run($admin, "CREATE DATABASE $template IS_TEMPLATE true");
{
	my $client = $node->session($template);
	run($client, 'CREATE TABLE small AS SELECT generate_series(1, 10) AS i');
	run($client, q{CREATE TABLE big AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 40000)});
	run($client, "CREATE TABLE many_$_ (i int PRIMARY KEY)") for 1 .. 100;
	$client->close;
}
my $big = $node->safe_psql($template, q{SELECT pg_relation_size('big')});

my $filler = "$data/filler";

# Leaves so many bytes free above testdb.min_free_space.
sub leave_bytes
{
	my ($bytes) = @_;
	run($admin, 'CHECKPOINT');
	my $kb = (split ' ', `df -Pk $data | tail -n 1`)[3] - 32 * 1024 - int($bytes / 1024);
	die "no more than $kb kB too much" if $kb < 0;
	system('fallocate', '-l', "${kb}KiB", $filler) == 0 or die "fallocate: $?";
	return;
}

# Leaves so many inodes free above those that are never used.
sub leave_files
{
	my ($files) = @_;
	run($admin, 'CHECKPOINT');
	my $n = (split ' ', `df -Pi $data | tail -n 1`)[3] - 1000 - $files;
	die "no more than $n files too much" if $n < 0;
	mkdir "$filler.d";
	for my $i (1 .. $n) { open my $out, '>', "$filler.d/$i" or die $! }
	return;
}

sub free_all
{
	unlink $filler;
	system("rm -rf $filler.d");
	return;
}

# What a clone has lost, what there is room for, whether it can be restored.
my @cases = (
	[ 'a dropped table, no room for it', 'DROP TABLE big', \&leave_bytes, $big / 2, '53100' ],
	[ 'a dropped table, just room for it', 'DROP TABLE big', \&leave_bytes, $big + 4 * 1024 * 1024, '00000' ],
	[ 'a truncated table, no room for it', 'TRUNCATE big', \&leave_bytes, $big / 2, '53100' ],
	[ 'rows changed, little room', 'UPDATE small SET i = 0', \&leave_bytes, 2 * 1024 * 1024, '00000' ],
	[
		'many dropped tables, no inodes for them',
		'DO $$ BEGIN FOR i IN 1 .. 100 LOOP EXECUTE \'DROP TABLE many_\' || i; END LOOP; END $$',
		\&leave_files, 50, '53100'
	]);

for my $function ('testdb_reset', 'testdb_rewind')
{
	for my $case (@cases)
	{
		my ($title, $do, $leave, $room, $wanted) = @$case;
		$title = "$function, $title";
		my $name = $admin->query("SELECT testdb_clone('$template')") or die $admin->told;
		my $client = $node->session($name);
		run($client, 'CREATE TABLE own AS SELECT 1 AS i');
		run($client, $do);
		$client->close;
		run($admin, "ALTER DATABASE $name SET work_mem = '7MB'");
		$leave->($room);
		$admin->query("SELECT $function('$name')");
		is($admin->sqlstate, $wanted, "$title: $wanted") or diag $admin->told;
		like(
			$admin->told,
			qr/^53100: not enough free (space|inodes) to restore database "$name"\nIt needs/,
			"$title: error") if $wanted ne '00000';
		free_all();
		$client = $node->connect_to($name);
		my $kept = $wanted ne '00000';
		is( $client->query(q{SELECT to_regclass('own') IS NOT NULL}),
			$kept ? 't' : 'f',
			"$title: the clone stays as it is, or is restored") or diag $client->told;
		is($client->query('SHOW work_mem'), $kept ? '7MB' : '4MB', "$title: and so do its settings");
		is($client->query('SELECT sum(i) FROM small'), '55', "$title: content") if !$kept;
		is($client->query('SELECT count(*) FROM big'), '40000', "$title: all of it") if !$kept;
		$client->close;
		is($admin->query("SELECT $function('$name')"), '', "$title: when there is room it is restored")
		  or diag $admin->told;
		is($node->safe_psql($name, 'SELECT count(*) FROM big'), '40000', "$title: whole");
		run($admin, "SELECT testdb_drop('$name')");
	}
}

# Spares make way for a reset that needs their room.
{
	my $name = run($admin, "SELECT testdb_clone('$template', 'regression_short')");
	$node->safe_psql($name, 'DROP TABLE big');
	run($admin, "SELECT testdb_prewarm('$template', 2)");
	run($admin, "SELECT testdb_template_set('$template', 0)");
	poll(sub { is_idle($admin) });
	leave_bytes($big / 2);
	is($admin->query("SELECT testdb_reset('$name')"), '', 'spares make way') or diag $admin->told;
	free_all();
	is($node->safe_psql($name, 'SELECT count(*) FROM big'), '40000', 'spares make way: restored');
	run($admin, "SELECT testdb_drop('$name')");
}

# A clone that is dropped, and that there is no room to restore, goes.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $oid = oid_of($admin, $name);
	$node->safe_psql($name, 'DROP TABLE big');
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	leave_bytes($big / 2);
	my $position = -s $node->logfile;
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'recycling: dropped');
	poll(
		sub {
			is_idle($admin)
			  && run($admin, q{SELECT count(*) FROM testdb_clones() WHERE state NOT IN ('leased', 'spare')}) eq '0';
		});
	is(run($admin, "SELECT count(*) FROM testdb_clones() WHERE oid = $oid"),
		'0', 'recycling: no spare that there is no room for');
	unlike(
		slurp_file($node->logfile, $position),
		qr/No space left on device|could not/,
		'recycling: nothing was tried in vain');
	free_all();
}
unlike(slurp_file($node->logfile), qr/PANIC|No space left on device/, 'the file system was never full');
$node->stop;

done_testing();
