
# A template of 1.5 GB in a control group with 4 GB, data on a tmpfs: finished, it takes no more than itself while nobody clones
# it; the first clone adds one copy of it, or two if it is open to connections.
#
# test/run makes the control group, TESTDB_GROUP, if it may. Only with TESTDB_LONG=1.
# Control group: 4096 MB

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

plan skip_all => 'only with TESTDB_LONG=1' unless $ENV{TESTDB_LONG};
my $group = $ENV{TESTDB_GROUP} or plan skip_all => 'no right to make a control group with a memory limit';
my $dir = $PostgreSQL::Test::Utils::tmp_check;
plan skip_all => 'the tests do not run on a tmpfs' if `stat -f -c %T $dir` !~ /^tmpfs$/;
my ($room) = `df -Pk $dir | tail -n 1` =~ /^\S+\s+\d+\s+\d+\s+(\d+)/;
my ($memory) = slurp_file('/proc/meminfo') =~ /^MemAvailable: *(\d+)/m;
plan skip_all => 'less than 5 GB of memory are free' if $room < 5 << 20 || $memory < 5 << 20;

my $node = TestdbCluster->new_server('large',
	"wal_level = minimal\nmax_wal_senders = 0\nmax_wal_size = 64MB\ntestdb.spares = 5\ntestdb.workers = 2");
my $admin = $node->session('postgres');
my ($template) = split /\|/, run($admin, q{SELECT database FROM testdb_template_begin('regression_large', 'f')});
my $empty = $node->occupied;
$node->safe_psql($template,
	q{CREATE TABLE big AS SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 1350000) AS i});
run($admin, "SELECT testdb_template_finish('$template')");
my $size = run($admin, "SELECT pg_database_size('$template')");
cmp_ok($size, '>', 1400 * 1048576, 'the template is large');

# It is too large for spares in this memory.
run($admin, 'CHECKPOINT');
cmp_ok($node->occupied - $empty, '<', 1.05 * $size, 'idle, nothing is kept beside the template');

my $clone = run($admin, "SELECT testdb_clone('$template')");
cmp_ok($node->occupied - $empty, '<', 2.05 * $size, 'the first clone adds one copy');
is($node->safe_psql($clone, 'SELECT count(*) FROM big'), 1350000, 'and is whole');
ok(!$admin->do("SELECT testdb_clone('$template')"), 'there is no room for another');
like($admin->told, qr/^53100: not enough free space for another database/, 'which is said');
run($admin, "SELECT testdb_drop('$clone')");
is(run($admin, "SELECT testdb_clone('$template') IS NOT NULL"), 't', 'once it is dropped, there is');
is(oom_kills($group), 0, 'the kernel has ended no process') if defined oom_kills($group);
run($admin, 'SELECT testdb_drop_all()');

# Open to connections it has a snapshot beside it, for which there is no room with a clone.
run($admin, "ALTER DATABASE $template ALLOW_CONNECTIONS true");
ok(!$admin->do("SELECT testdb_clone('$template')"),
	'an open template takes two more copies, for which there is no room');
like($admin->told, qr/^53100: not enough free space for another database/, 'which is said as well');
is(oom_kills($group), 0, 'the kernel has ended no process still') if defined oom_kills($group);

$admin->close;
$node->stop;
done_testing();
