
# After testdb_reset a clone is what a new one would be, in shared catalogs, too; and it gets nothing that its owner could
# not get by testdb_clone. A clone that somebody has marked as a template can be dropped and reset all the same.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbTest;

my $template = 'regression_template';
my $node = new_server('reset', "wal_level = minimal\nmax_wal_senders = 0");
my $admin = session($node, 'postgres');

run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_carl', 'CREATE ROLE regress_dora',
  'CREATE ROLE regress_user LOGIN',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_reset, testdb_drop TO regress_user';
{
	my $client = session($node, $template);
	run($client, $_) for 'CREATE TABLE owned ()', 'ALTER TABLE owned OWNER TO regress_dora',
	  'CREATE TABLE granted ()', 'GRANT SELECT ON granted TO regress_dora';
	$client->close;
}
my $template_rows = catalog_rows($admin, oid_of($admin, $template));

# What somebody does to a clone; and that it is undone by a reset, in both ways of resetting.
for my $method ('native', 'file_copy')
{
	for my $case (
		[ 'objects made', 'CREATE TABLE t (); ALTER TABLE t OWNER TO regress_carl;'
			  . ' CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$; ALTER FUNCTION f() OWNER TO regress_carl' ],
		[ 'privileges granted', 'GRANT SELECT ON granted TO regress_carl' ],
		[ 'objects dropped', 'DROP TABLE owned; DROP TABLE granted' ],
		[ 'owners changed', 'ALTER TABLE owned OWNER TO regress_carl' ])
	{
		my ($title, $do) = @$case;
		run($admin, "SET testdb.method = $method");
		my $name = $admin->query("SELECT testdb_clone('$template')");
		my $client = session($node, $name);
		run($client, $do);
		is($admin->query("SELECT testdb_reset('$name')"), '', "$method, $title: reset") or diag $admin->message;
		is(differences($template_rows, catalog_rows($admin, oid_of($admin, $name))), '', "$method, $title: catalogs");
		$admin->query('DROP ROLE regress_dora');
		is($admin->sqlstate, '2BP01', "$method, $title: a role of the template's objects is in use");
		is($admin->do("SELECT testdb_drop('$name')"), 1, "$method, $title: dropped") or diag $admin->message;
		run($admin, 'RESET testdb.method');
	}
}
$admin->query('DROP ROLE regress_carl');
is($admin->sqlstate, '00000', 'the role of what was made in clones is not') or diag $admin->message;

# Whoever may not clone a template any more may not get its content by a reset either.
{
	my $user = session($node, 'postgres', user => 'regress_user');
	my $name = run($user, "SELECT testdb_clone('$template')");
	run($admin, "ALTER DATABASE $template IS_TEMPLATE false");
	my %told;
	for my $call ("testdb_clone('$template')", "testdb_reset('$name')")
	{
		$user->query("SELECT $call");
		$told{$call} = $user->message;
		is($user->sqlstate, '42501', "$call is refused");
	}
	is((values %told)[0], (values %told)[1], 'in the same words');
	run($admin, "ALTER DATABASE $template IS_TEMPLATE true");
	is($user->query("SELECT testdb_reset('$name')"), '', 'when it is a template again, it is not') or diag $user->message;
	is($user->query("SELECT testdb_drop('$name')"), 't', 'and the clone is dropped');
}

# A clone that is marked as a template.
for my $call ('drop', 'reset', 'drop_all')
{
	my $name = $admin->query("SELECT testdb_clone('$template')");
	run($admin, "ALTER DATABASE $name IS_TEMPLATE true");
	my $sql = $call eq 'drop_all' ? 'SELECT testdb_drop_all()' : "SELECT testdb_$call('$name')";
	$admin->query($sql);
	is($admin->sqlstate, '00000', "a clone marked as a template: $call") or diag $admin->message;
	$admin->query("SELECT testdb_drop('$name', true)");
	is($admin->query("SELECT count(*) FROM testdb_clones WHERE name = '$name'"), '0', "$call: it can be dropped");
}

done_testing();
