
# After testdb_reset a clone is what a new one would be, in shared catalogs, too; and it gets nothing that its owner could
# not get by testdb_clone. It belongs to the role that it was made for again, which has all privileges on it. A clone that
# somebody has marked as a template can be dropped and reset all the same.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';
my $node = TestdbCluster->new_server('reset', "wal_level = minimal\nmax_wal_senders = 0");
my $admin = $node->session('postgres');

run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_carl', 'CREATE ROLE regress_dora',
  'CREATE ROLE regress_user LOGIN',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_reset, testdb_drop TO regress_user';
{
	my $client = $node->session($template);
	run($client, $_)
	  for 'CREATE TABLE owned ()', 'ALTER TABLE owned OWNER TO regress_dora',
	  'CREATE TABLE granted ()', 'GRANT SELECT ON granted TO regress_dora';
	$client->close;
}
# To whom a clone is given away below: its owner is in pg_shdepend as such, and whom privileges were granted to, as that.
run($admin, "GRANT CREATE ON DATABASE $template TO regress_dora");
my $template_rows = catalog_rows($admin, oid_of($admin, $template));

# What somebody does to a clone; and that it is undone by a reset, in both ways of resetting.
for my $method ('native', 'file_copy')
{
	for my $case (
		[
			'objects made',
			'CREATE TABLE t (); ALTER TABLE t OWNER TO regress_carl;'
			  . ' CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$; ALTER FUNCTION f() OWNER TO regress_carl'
		],
		[ 'privileges granted', 'GRANT SELECT ON granted TO regress_carl' ],
		[ 'objects dropped', 'DROP TABLE owned; DROP TABLE granted' ],
		[ 'owners changed', 'ALTER TABLE owned OWNER TO regress_carl' ])
	{
		my ($title, $do) = @$case;
		run($admin, "SET testdb.method = $method");
		my $name = $admin->query("SELECT testdb_clone('$template')");
		my $client = $node->session($name);
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
run($admin, 'CREATE ROLE regress_carl');

# Whoever may not clone a template any more may not get its content by a reset either.
{
	my $user = $node->session('postgres', user => 'regress_user');
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
	is($user->query("SELECT testdb_reset('$name')"), '', 'when it is a template again, it is not')
	  or diag $user->message;
	is($user->query("SELECT testdb_drop('$name')"), 't', 'and the clone is dropped');
}

# A clone that was given away belongs to the role that it was made for again, as a new one would.
for my $function ('testdb_reset', 'testdb_rewind')
{
	for my $method ('native', $function eq 'testdb_reset' ? 'file_copy' : ())
	{
		my $title = "$function, $method, given away";
		run($admin, 'CREATE ROLE regress_maker SUPERUSER LOGIN');
		my $maker = $node->session('postgres', user => 'regress_maker');
		run($maker, "SET testdb.method = $method");
		my $name = run($maker, "SELECT testdb_clone('$template')");
		run($admin, $_)
		  for "ALTER DATABASE $name OWNER TO regress_dora", "GRANT CREATE ON DATABASE $name TO regress_user",
		  "ALTER DATABASE $name SET work_mem = '7MB'";
		is($maker->query("SELECT $function('$name')"), '', $title) or diag $maker->message;
		my $oid = oid_of($admin, $name);
		is($admin->query("SELECT datdba::regrole FROM pg_database WHERE oid = $oid"), 'regress_maker', "$title: owner");
		is(differences($template_rows, catalog_rows($admin, $oid)), '', "$title: catalogs");
		is($admin->query("SELECT owner FROM testdb_clones WHERE name = '$name'"),
			'regress_maker', "$title: in the view");

		# If that role has gone, the clone stays with who has it.
		run($admin, "ALTER DATABASE $name OWNER TO regress_dora");
		$maker->close;
		is($admin->query('DROP ROLE regress_maker'), '', "$title: the role is dropped") or diag $admin->message;
		is($admin->query("SELECT $function('$name')"), '', "$title: after that") or diag $admin->message;
		$oid = oid_of($admin, $name);
		is($admin->query("SELECT datdba::regrole FROM pg_database WHERE oid = $oid"),
			'regress_dora', "$title: it stays with who has it");
		run($admin, "SELECT testdb_drop('$name')");
	}
}

# What the template's owner has revoked from itself, the clone's owner has.
{
	my $sealed = 'regression_sealed';
	run($admin, $_)
	  for "CREATE DATABASE $sealed OWNER regress_dora IS_TEMPLATE true",
	  "REVOKE ALL ON DATABASE $sealed FROM regress_dora, PUBLIC",
	  "GRANT CONNECT ON DATABASE $sealed TO regress_carl";
	my $user = $node->session('postgres', user => 'regress_user');
	my $name = run($user, "SELECT testdb_clone('$sealed')");
	for my $how ('made', 'reset', 'recycled')
	{
		my $client = $node->session($name, user => 'regress_user');
		is($client->query('CREATE SCHEMA mine'),
			'', "a sealed template, a clone that was $how: its owner makes a schema")
		  or diag $client->message;
		is($client->query('CREATE TEMP TABLE t ()'),
			'', "a sealed template, a clone that was $how: and a temporary table")
		  or diag $client->message;
		is( $admin->query("SELECT datacl FROM pg_database WHERE datname = '$name'"),
			'{regress_carl=c/regress_user,regress_user=CTc/regress_user}',
			"a sealed template, a clone that was $how: privileges");
		$client->close;
		if    ($how eq 'made') { run($user, "SELECT testdb_reset('$name')") }
		elsif ($how eq 'reset')
		{
			my $oid = oid_of($admin, $name);
			run($user, "SELECT testdb_drop('$name')");
			$node->spare_of($oid, $name);
			$name = run($user, "SELECT testdb_clone('$sealed')");
		}
	}
	run($user, "SELECT testdb_drop('$name')");
	run($admin, $_) for "ALTER DATABASE $sealed IS_TEMPLATE false", "DROP DATABASE $sealed";
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
