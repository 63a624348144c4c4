
# What the tests of recycling share: a template with something of everything, and a clone's life and the next under the same OID.

package TestdbRecycling;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

our @EXPORT =
  qw($template $node $admin $template_dump $template_files $template_rows $previous set_up clone next_life log_is_clean);

our $template = 'regression_template';
our $node;
our $admin;            # a session of the superuser in the database postgres
our $template_dump;    # what pg_dump says of the template, and what there is of it in files and in shared catalogs
our $template_files;
our $template_rows;
our $previous;         # the clone that next_life() has made last; it is dropped by the next call

# Starts the server and makes the template.
sub set_up
{
	$node = TestdbCluster->new_server(
		'native', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 4
allow_system_table_mods = on
});
	$admin = $node->connect_to('postgres');

	run($admin, $_)
	  for "CREATE DATABASE $template IS_TEMPLATE true CONNECTION LIMIT 20",
	  'CREATE ROLE regress_grantee', 'CREATE ROLE regress_owner',
	  'CREATE ROLE regress_user LOGIN SUPERUSER',
	  "ALTER DATABASE $template SET work_mem = '5MB'",
	  "ALTER ROLE regress_grantee IN DATABASE $template SET search_path = 'x'",
	  "GRANT CREATE ON DATABASE $template TO regress_grantee",
	  "REVOKE TEMPORARY ON DATABASE $template FROM PUBLIC";
	{
		my $client = $node->session($template);
		run($client, $_) for split /;;/, q{
			CREATE TABLE plain AS SELECT i, repeat('x', i % 300) AS t FROM generate_series(1, 3000) i;;
			CREATE UNIQUE INDEX plain_i ON plain (i);;
			CREATE TABLE toasted (i serial PRIMARY KEY, t text);;
			ALTER TABLE toasted ALTER t SET STORAGE external;;
			INSERT INTO toasted (t) SELECT repeat('y', 9000) FROM generate_series(1, 20);;
			CREATE UNLOGGED TABLE light AS SELECT i FROM generate_series(1, 500) i;;
			CREATE TABLE owned (i int REFERENCES toasted);;
			ALTER TABLE owned OWNER TO regress_owner;;
			GRANT SELECT ON plain TO regress_grantee;;
			CREATE SEQUENCE counter;;
			SELECT nextval('counter');;
			SELECT lo_from_bytea(12345, repeat('z', 5000)::bytea);;
			CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';;
			CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM plain;;
			VACUUM ANALYZE};
		$client->close;
	}

	# What every new life is compared with. The first clone makes the snapshot and with it the template's
	# pg_internal.init; from then on nobody connects to the template, and its files stay as they are.
	$template_dump = $node->dump_of($template);
	my $first = clone();
	run($admin, "SELECT testdb_drop('$first')");
	run($admin, 'CHECKPOINT');
	my $template_oid = oid_of($admin, $template);
	$template_files = $node->files_of($template_oid);
	ok($template_files->{'pg_internal.init'}, 'the template has a pg_internal.init');
	$template_rows = catalog_rows($admin, $template_oid);
	is($admin->query("SELECT method FROM testdb_templates WHERE name = '$template'"),
		'native', 'the native method is used');
	return;
}

# Makes a clone in a session, by default the administrator's; its name.
sub clone
{
	my ($client) = @_;
	my $name = ($client || $admin)->query("SELECT testdb_clone('$template')");
	die(($client || $admin)->message) unless $name;
	return $name;
}

# A life and the one after it: clones, has $dirty done to the clone, drops it, and looks at the next clone, which must be
# under the same OID. $dirty is a function, called with a session in the clone and the clone's name and OID, or statements
# for that session. In every other life what was done reaches the files before the drop. Returns the name and OID of the next clone, which is dropped before the next call.
my $nlives = 0;

sub next_life
{
	my ($title, $dirty) = @_;
	run($admin, "SELECT testdb_drop('$previous', true)") if $previous;
	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = $node->session($name);

	if (ref $dirty)
	{
		$dirty->($client, $name, $oid);
	}
	else
	{
		run($client, $_) for grep { /\S/ } split /;;/, $dirty;
	}

	run($admin, 'CHECKPOINT') if $nlives++ % 2;
	my $now = $admin->query("SELECT datname FROM pg_database WHERE oid = $oid");
	is($admin->query("SELECT testdb_drop('$now')"), 't', "$title: dropped")
	  or diag $admin->message;
	poll(sub { !$client->do('SELECT 1') });
	like($client->sqlstate, qr/^(57P01|0800[36])$/, "$title: its session was ended");
	my $spare = $node->spare_of($oid, $now);
	isnt($spare, undef, "$title: recycled");

	for my $old ($name, $now)
	{
		is($node->connect_to($old)->sqlstate, '3D000', "$title: the old name is unknown");
	}

	$previous = clone();
	my $next = oid_of($admin, $previous);
	is($next, $oid, "$title: the next clone has the same OID");
	isnt($previous, $name, "$title: and another name");
	is(differences($template_files, $node->files_of($next)), '', "$title: files");
	is(differences($template_rows, catalog_rows($admin, $next)), '', "$title: catalogs");
	is( differences(
			described($admin, $next),
			{
				pg_shdescription => '',
				pg_shseclabel => '',
				pg_stat_database => 0,
				pg_locks => 0,
				pg_stat_activity => 0,
				pg_replication_slots => 0,
				pg_subscription => 0
			}),
		'',
		"$title: nothing else is kept under its OID");
	return ($previous, $next);
}

# Tests that the server's log has no complaint so far.
sub log_is_clean
{
	my (undef, @complaints) = $node->log_lines(0, qr/PANIC|could not|TRAP|WARNING/, qr/could not send data to client/);
	is(join("\n", @complaints), '', 'the server log has no complaint');
	return;
}

1;
