
# What is kept by a database's OID outside of it: a clone that comes back under the same OID, recycled or reset, has none of
# its former life. And what of the template's row must not keep people out of a clone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';
my $statements = has_contrib('pg_stat_statements');
my $libraries = 'testdb' . ($statements ? ', pg_stat_statements' : '');
my $node = TestdbCluster->new_server(
	'shared', qq{
wal_level = minimal
max_wal_senders = 0
shared_preload_libraries = '$libraries'
testdb.lock_timeout = 1s
});
my $admin = $node->connect_to('postgres');
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_user LOGIN',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_reset TO regress_user';
run($admin, 'CREATE TABLE seen (dbid oid, path text)');

# Uses a clone in a way that pg_stat_statements sees.
sub use_clone
{
	my ($name) = @_;
	my $client = $node->session($name);
	run($client, "SELECT count(*) FROM pg_class WHERE relname = 'once'");
	$client->close;
	return;
}

# What pg_stat_statements has under an OID, asked through the extension in a database of its own.
run($admin, 'CREATE DATABASE regression_watcher');
my $watcher = $node->session('regression_watcher');
run($watcher, 'CREATE EXTENSION pg_stat_statements') if $statements;

sub calls
{
	my ($oid) = @_;
	return $watcher->query("SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE dbid = $oid");
}

# Sets testdb.recycle_statement in all workers.
sub set_statement
{
	my ($statement) = @_;
	run($admin,
		'ALTER SYSTEM SET testdb.recycle_statement = ' . $admin->query("SELECT quote_literal(\$\$$statement\$\$)"));
	$node->reload;
	return;
}

sub clone { return run($admin, "SELECT testdb_clone('$template')") }

# Each way by which a clone comes back under its OID: done to the clone of that name, gives the name of the next life.
my %ways = (
	recycling => sub {
		my ($name, $oid) = @_;
		run($admin, "SELECT testdb_drop('$name')");
		$node->spare_of($oid, $name);
		return clone();
	},
	reset => sub {
		my ($name) = @_;
		run($admin, "SELECT testdb_reset('$name')");
		return $name;
	});

set_statement('INSERT INTO public.seen VALUES ($1, current_setting(\'search_path\'))');
for my $way (sort keys %ways)
{
	my $name = clone();
	my $oid = oid_of($admin, $name);
	for my $round (1 .. 3)
	{
		use_clone($name);
	  SKIP:
		{
			skip 'PostgreSQL has no pg_stat_statements', 1 unless $statements;
			cmp_ok(calls($oid), '>', 0, "$way $round: pg_stat_statements knows the life");
		}
		run($admin, 'TRUNCATE seen');
		$name = $ways{$way}->($name, $oid);
		is(oid_of($admin, $name), $oid, "$way $round: the next life has the same OID");
	  SKIP:
		{
			skip 'PostgreSQL has no pg_stat_statements', 1 unless $statements;
			is(calls($oid), '0', "$way $round: pg_stat_statements has forgotten the former");
		}
		is( $admin->query("SELECT string_agg(dbid || ' ' || path, ',') FROM seen"),
			"$oid pg_catalog, pg_temp",
			"$way $round: the statement was run once, in a safe search_path");
	}
	run($admin, "SELECT testdb_drop('$name')");
	$node->spare_of($oid, $name);
}
SKIP:
{
	skip 'PostgreSQL has no pg_stat_statements', 1 unless $statements;
	cmp_ok(
		$watcher->query(
			"SELECT count(*) FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'postgres')"
		),
		'>', 0,
		'what other databases have done is still known');
}

# Statements that fail, each in its own way: the clone does not come back under its OID; a reset stands.
my %failing = (
	'that does not exist' => [ 'SELECT public.nothing($1)', qr/function public.nothing\(oid\) does not exist/ ],
	'with a syntax error' => [ 'SELEC $1', qr/syntax error/ ],
	'that divides by zero' => [ 'SELECT 1 / ($1::int8 - $1::int8)', qr/division by zero/ ],
	'that ends the transaction' => [ 'COMMIT', qr/statement cannot be run/ ],
	'that hangs' => [ 'SELECT pg_sleep(60), $1', qr/statement timeout/ ]);
for my $how (sort keys %failing)
{
	my ($statement, $message) = @{ $failing{$how} };
	my $name = clone();
	my $oid = oid_of($admin, $name);
	set_statement($statement);
	run($admin, "SELECT testdb_drop('$name')");
	ok(poll(sub { !$admin->query("SELECT 1 FROM pg_database WHERE oid = $oid") }),
		"a statement $how: the clone is dropped");
	like($admin->query("SELECT last_error FROM testdb_templates WHERE name = '$template'"),
		$message, "a statement $how: the view says why");

	$name = clone();
	$oid = oid_of($admin, $name);
	isnt($admin->query("SELECT testdb_reset('$name')"), undef, "a statement $how: a reset stands")
	  or diag $admin->message;
	is(oid_of($admin, $name), $oid, "a statement $how: it is the same database");
	is($node->connect_to($name)->query('SELECT 1'), '1', "a statement $how: it can be used");
	set_statement('');
	run($admin, "SELECT testdb_drop('$name')");
	isnt($node->spare_of($oid, $name), undef, 'without it clones are recycled again');
}

# What it sets is not left in the worker.
set_statement("SELECT set_config('search_path', 'public', false), \$1");
{
	my $name = clone();
	my $oid = oid_of($admin, $name);
	run($admin, "SELECT testdb_drop('$name')");
	$node->spare_of($oid, $name);
	set_statement('INSERT INTO public.seen VALUES ($1, current_setting(\'search_path\'))');
	run($admin, 'TRUNCATE seen');
	$name = clone();
	run($admin, "SELECT testdb_drop('$name')");
	$node->spare_of($oid, $name);
	is($admin->query('SELECT path FROM seen'), 'pg_catalog, pg_temp', 'what the statement sets is undone');
	set_statement('');
}

# Only superusers may set it, and see it.
{
	my $client = $node->session('postgres', user => 'regress_user');
	$client->query("SET testdb.recycle_statement = 'SELECT 1'");
	is($client->sqlstate, '55P02', 'nobody sets it in a session');
	$client->query('SHOW testdb.recycle_statement');
	is($client->sqlstate, '42501', 'a role without privileges does not see it');
}

# A template's connection limit, and its clones'.
for my $case ([ 0, -1 ], [ 7, 7 ], [ -1, -1 ])
{
	my ($limit, $wanted) = @$case;
	run($admin, "ALTER DATABASE $template CONNECTION LIMIT $limit");
	my $client = $node->session('postgres', user => 'regress_user');
	my $name = run($client, "SELECT testdb_clone('$template')");
	my $oid = oid_of($admin, $name);
	for my $life ('a new clone', 'a recycled one', 'one that was reset', 'one with a name')
	{
		is($admin->query("SELECT datconnlimit FROM pg_database WHERE oid = $oid"),
			$wanted, "limit $limit: $life has $wanted");
		is($node->connect_to($name, user => 'regress_user')->query('SELECT 1'),
			'1', "limit $limit: its owner gets into $life");
		if ($life eq 'a new clone')
		{
			run($client, "SELECT testdb_drop('$name')");
			$node->spare_of($oid, $name);
			$name = run($client, "SELECT testdb_clone('$template')");
		}
		run($client, "SELECT testdb_reset('$name')") if $life eq 'a recycled one';
		if ($life eq 'one that was reset')
		{
			run($client, "SELECT testdb_drop('$name')");
			$name = run($client, "SELECT testdb_clone('$template', 'regression_named')");
		}
		$oid = oid_of($admin, $name);
	}
	run($client, "SELECT testdb_drop('$name')");
}

done_testing();
