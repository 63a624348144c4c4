
# In a container with less memory than the tmpfs that holds the data: clones are refused when memory runs short, with an error
# that says what takes it, and nothing is ended by the kernel.
#
# test/run makes the control group and runs this in it, if it may; its folder is TESTDB_GROUP.
# Control group: 500 MB

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $group = $ENV{TESTDB_GROUP} or plan skip_all => 'no right to make a control group with a memory limit';

sub limit { return slurp_file("$group/memory." . (-e "$group/memory.limit_in_bytes" ? 'limit_in_bytes' : 'max')) }

my $dir = $PostgreSQL::Test::Utils::tmp_check;
plan skip_all => 'the tests do not run on a tmpfs' if `stat -f -c %T $dir` !~ /^tmpfs$/;
my ($room) = `df -Pk $dir | tail -n 1` =~ /^\S+\s+\d+\s+\d+\s+(\d+)/;
plan skip_all => 'the tmpfs is too small' if $room * 1024 < 1.5 * limit();

my $node = TestdbCluster->new_server('container',
	"wal_level = minimal\nmax_wal_senders = 0\nmax_wal_size = 64MB\nwal_recycle = off\ntestdb.min_free_space = 32MB\nshared_buffers = 128MB\ntestdb.workers = 2"
);
my $admin = $node->session('postgres');
run($admin, 'CREATE DATABASE regression_template IS_TEMPLATE true');
$node->safe_psql('regression_template',
	q{CREATE TABLE big AS SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 40000) AS i; CREATE INDEX ON big (i)}
);
my $pid = run($admin, 'SELECT pg_backend_pid()');
my $size = run($admin, q{SELECT pg_database_size('regression_template')});
cmp_ok($size, '>', 40_000_000, 'the template is large');

# Clones until there is no room for another.
sub clone_all
{
	my @clones;
	while (@clones < 40)
	{
		my $clone = $admin->query(q{SELECT testdb_clone('regression_template')});
		last unless defined $clone && !$admin->error;
		push @clones, $clone;
	}
	return @clones;
}

for my $round (1 .. 3)
{
	my @clones = clone_all();
	my $fit = int(limit() / $size);
	cmp_ok(scalar @clones, '>=', 2, "round $round: some clones are made");
	cmp_ok(scalar @clones, '<', $fit, "round $round: fewer than the limit of memory would hold by themselves");
	like(
		$admin->told,
		qr/^53100: not enough free space for another database\nIt needs \d+ kB more than the 32 MB of "testdb.min_free_space"; \d+ kB are free of the \d+ kB of memory that the server's control group may use, and the data directory is in memory. Clones in use take about \d+ MB, spares and databases being removed 0 MB, snapshots \d+ MB.\nDrop databases that are no longer needed, raise the memory limit/,
		"round $round: and said why there are no more");
	my ($clones_mb, $snapshots_mb) = $admin->told =~ /use take about (\d+) MB.*snapshots (\d+) MB/;
	cmp_ok($clones_mb, '>=', @clones * int($size / 1048576), "round $round: they are counted");
	cmp_ok($snapshots_mb, '>=', int($size / 1048576), "round $round: so is the snapshot");

	# Reading them takes shared buffers that nobody has used yet. By the index, since a scan of the table would use few. A process
	# that is still ending has the file open, so that its memory is not free when the clone has been dropped.
	for my $clone (@clones)
	{
		my $reader = $node->session($clone);
		run($reader, $_)
		  for 'SET enable_seqscan = off', 'SET enable_bitmapscan = off', 'SELECT sum(length(t)) FROM big WHERE i > 0';
		$node->leave($reader, $admin);
	}

	# A clone that exists is whole, and dropping makes room: two, since WAL is in memory as well, and grows meanwhile.
	my $inside = $node->session($clones[-1]);
	is(run($inside, 'SELECT count(*) FROM big'), 40000, "round $round: the last one is whole");
	$node->leave($inside, $admin);
	run($admin, "SELECT testdb_drop('" . pop(@clones) . "')") for 1 .. 2;
	push @clones, run($admin, q{SELECT testdb_clone('regression_template')});
	is(run($admin, q{SELECT testdb_drop_all()}), scalar @clones, "round $round: all are dropped");
}
is(oom_kills($group), 0, 'the kernel has ended no process') if defined oom_kills($group);
is(run($admin, 'SELECT pg_backend_pid()'), $pid, 'nor has the server ended its sessions');
unlike(slurp_file($node->logfile), qr/(?:PANIC|terminated by signal)/, 'and the log says nothing of that kind');

$admin->close;
$node->stop;
done_testing();
