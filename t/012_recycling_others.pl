
# Recycling beside others: how many clones are kept for it, what becomes of the dead rows that it leaves, processes that close no files,
# and those who follow WAL.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbRecycling;
use TestdbTest;

set_up();

# As many are kept as were in use at one time and are to be ready besides. Of fewer, some would be dropped for good each time, and
# others copied.
{
	my ($n, $ready) = (12, 4);
	my $count = sub { $admin->query("SELECT $_[0] FROM $_[1] WHERE name = '$template'") };
	my @copies;
	run($admin, "SELECT testdb_template_set('$template', $ready)");
	for (1 .. 4)
	{
		my @names = map { clone() } 1 .. $n;
		poll(sub { $count->('spares', 'testdb_templates') >= $ready });
		run($admin, "SELECT testdb_drop('$_')") for @names;
		poll(sub { $count->('recycling', 'testdb_templates') == 0 });
		push @copies, $count->('copies', 'testdb_stats');
	}
	is($copies[3], $copies[0], 'once there are enough, none is copied any more') or diag "@copies";
	is($count->('spares', 'testdb_templates'), $n + $ready, 'all of them are kept');
	run($admin, "SELECT testdb_template_set('$template', 0)");
}

# Each drop leaves a dead row in pg_database. Nobody else removes them here, and autovacuum comes once a minute elsewhere.
{
	my $vacuums = q{SELECT vacuum_count FROM pg_stat_sys_tables WHERE relname = 'pg_database'};
	my $before = $admin->query($vacuums);
	my $size;
	for (1 .. 4)
	{
		for (1 .. 10)
		{
			run($admin, "SELECT count(testdb_drop(testdb_clone('$template'))) FROM generate_series(1, 100)");
		}
		poll(sub { $admin->query($vacuums) > $before }) or die 'pg_database is not vacuumed';
		$before = $admin->query($vacuums);
		my $now = $admin->query("SELECT pg_total_relation_size('pg_database')");
		$size //= $now;
		cmp_ok($now, '<=', 2 * $size, 'pg_database is vacuumed, and does not grow');
	}
}

# A process whose client is in the middle of a COPY closes no files. It is waited for only if one of the clone's was made or
# removed.
{
	my $returned = q{SELECT count(*) FROM testdb_clones() WHERE state = 'returned'};
	my ($copying, $position);
	my $begin_copy = sub {
		$copying = $node->session('postgres');
		$position = -s $node->logfile;
		$copying->send('COPY copied FROM STDIN');
		poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY copied%' AND wait_event = 'ClientRead'}
				);
			}) or die 'no COPY';
	};
	my $says = sub {
		my ($what) = @_;
		return poll(sub { slurp_file($node->logfile, $position) =~ /LOG:  $what/ });
	};
	my $live = sub {
		my ($statement) = @_;
		my $name = clone();
		my $oid = oid_of($admin, $name);
		my $client = $node->session($name);
		run($client, $statement);
		$node->leave($client, $admin);
		run($admin, "SELECT testdb_drop('$name')");
		return $oid;
	};
	my $is_recycled = sub {
		my ($title, $oid) = @_;
		ok(poll(sub { $admin->query("SELECT state FROM testdb_clones() WHERE oid = $oid") eq 'spare' }),
			"$title: recycled");
		is(differences($template_files, $node->files_of($oid)), '', "$title: files");
	};

	run($admin, 'CREATE TABLE copied (i int)');
	$is_recycled->('before a COPY', $live->("UPDATE plain SET t = 'a'"));

	$begin_copy->();
	$is_recycled->('during a COPY', $live->('DELETE FROM plain WHERE i > 100')) for 1 .. 3;
	my $put_off = $live->('TRUNCATE plain');
	ok($says->('recycling of databases is delayed'), 'it is waited for where a file was made or removed');
	$is_recycled->('while it is waited for', $live->('DELETE FROM plain WHERE i > 100'));
	my $other = $live->('CREATE TABLE made (i int)');
	ok(poll(sub { $admin->query($returned) eq '2' }), 'dropped ones gather');
	$copying->close;
	ok($says->('recycling of databases is no longer delayed'), 'when the COPY has ended they are recycled');
	$is_recycled->('after a COPY', $_) for $put_off, $other;

	# Nor is anything dropped for good, and nobody tries again and again.
	run($admin, $_) for q{ALTER SYSTEM SET testdb.lock_timeout = '100ms'}, 'SET testdb.method = file_copy';
	$node->reload;
	my $name = clone();
	run($admin, 'RESET testdb.method');
	$begin_copy->();
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'during a COPY nothing is dropped for good');
	is($admin->sqlstate, '55006', 'which is told') or diag $admin->message;
	ok($says->('recycling of databases is delayed'), 'and known to all workers');
	$is_recycled->('after such a drop', $live->('DELETE FROM plain WHERE i > 100'));
	$copying->close;
	ok($says->('recycling of databases is no longer delayed'), 'when the COPY has ended that is noticed, too');
	ok(poll(sub { oid_of($admin, $name) eq '' || $admin->do("SELECT testdb_drop('$name', true)") }),
		'and it is dropped');
}

$node->stop;

# With WAL for others a clone can have logical slots; what it can't have then is another life.
my $logical = TestdbCluster->new_server('logical', '', allows_streaming => 'logical');
$admin = $logical->connect_to('postgres');
run($admin, "CREATE DATABASE $template");
my $name = clone();
is($admin->query('SELECT method, reason IS NULL FROM testdb_templates'),
	'native|t', 'wal_level = logical: the native method is used');
my $oid = oid_of($admin, $name);
my $client = $logical->connect_to($name);
run($client, 'CREATE PUBLICATION regress_publication FOR ALL TABLES');
run($client, "SELECT pg_create_logical_replication_slot('regress_slot', 'pgoutput')");
run($client, $_) for 'CREATE TABLE made (i int)', 'INSERT INTO made VALUES (1)';
is( $client->query(
		q{SELECT count(*) > 0 FROM pg_logical_slot_get_binary_changes('regress_slot', NULL, NULL,
			'proto_version', '1', 'publication_names', 'regress_publication')}),
	't',
	'a clone can have a logical slot');
is($admin->query("SELECT testdb_drop('$name')"), 't', 'it is dropped') or diag $admin->message;
is($admin->query("SELECT count(*) FROM pg_database WHERE oid = $oid"), 0, 'for good');
is($admin->query('SELECT count(*) FROM pg_replication_slots'), 0, 'with its slot');

# As long as somebody is in the template, what a standby would copy from it could change.
my $sitting = $logical->connect_to($template);
run($admin, 'SET testdb.template_timeout = 100');
my $refused = 0;
for (1 .. 20)
{
	last if $refused;
	$refused = !$admin->do("SELECT testdb_clone('$template')");
}
ok($refused, 'without spares, a session in the template is in the way') or diag 'never refused';
is($admin->sqlstate, '55006', 'and named');
like($admin->message, qr/is being accessed by other users.*Process \d+/s, 'with its process') or diag $admin->message;
$sitting->close;
run($admin, 'RESET testdb.template_timeout');
ok($admin->do("SELECT testdb_clone('$template')"), 'when it has gone there are clones') or diag $admin->message;
$logical->stop;

done_testing();
