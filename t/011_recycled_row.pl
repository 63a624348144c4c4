
# A dropped clone has another life under the same OID. Whatever was done to its row and to what else belongs to it, nothing of that is
# left in the next; nor is anything of what was done to it while it was ready for that.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbRecycling;
use TestdbTest;

set_up();

# The row in pg_database, and what belongs to it.
next_life(
	'settings',
	sub {
		my ($client, $name) = @_;
		run($client, $_)
		  for "ALTER DATABASE $name SET work_mem = '7MB'",
		  "ALTER DATABASE $name SET enable_seqscan = off",
		  "ALTER ROLE regress_owner IN DATABASE $name SET work_mem = '8MB'",
		  "ALTER ROLE regress_grantee IN DATABASE $name RESET ALL";
	});
next_life('settings removed', sub { run($_[0], "ALTER DATABASE $_[1] RESET ALL") });
next_life('comment', sub { run($_[0], "COMMENT ON DATABASE $_[1] IS 'mine'") });
next_life(
	'security label',
	sub {
		# No provider comes with Debian's packages; a row is what one would leave.
		run($_[0], "INSERT INTO pg_shseclabel VALUES ($_[2], 'pg_database'::regclass, 'dummy', 'secret')");
	});
next_life('owner', sub { run($_[0], "ALTER DATABASE $_[1] OWNER TO regress_owner") });
next_life('owner to whom privileges are granted', sub { run($_[0], "ALTER DATABASE $_[1] OWNER TO regress_grantee") });
next_life(
	'connection limit',
	sub {
		run($_[0], "ALTER DATABASE $_[1] CONNECTION LIMIT 3");
		run($admin, "ALTER DATABASE $_[1] ALLOW_CONNECTIONS false");
	});
next_life('renamed', sub { $_[0]->close; run($admin, "ALTER DATABASE $_[1] RENAME TO regression_renamed") });
next_life('collation version', sub { run($_[0], "ALTER DATABASE $_[1] REFRESH COLLATION VERSION") });
{
	run($admin, 'CREATE ROLE regress_passing');
	my ($name) = next_life(
		'grants to a role',
		sub {
			my ($client, $name) = @_;
			run($client, $_)
			  for "GRANT ALL ON DATABASE $name TO regress_passing WITH GRANT OPTION",
			  "REVOKE ALL ON DATABASE $name FROM regress_grantee",
			  "ALTER ROLE regress_passing IN DATABASE $name SET work_mem = '9MB'",
			  'GRANT ALL ON plain, owned TO regress_passing',
			  'ALTER TABLE owned OWNER TO regress_passing',
			  'CREATE SCHEMA passing AUTHORIZATION regress_passing',
			  'ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_passing',
			  'CREATE POLICY p ON plain TO regress_passing',
			  'DROP OWNED BY regress_owner';
		});
	ok($admin->do('DROP ROLE regress_passing'), 'a role that the dropped clone named can be dropped')
	  or diag $admin->message;

	run($admin, 'CREATE ROLE regress_passing');
	next_life(
		'owned by another role',
		sub {
			my ($client, $name) = @_;
			run($client, $_)
			  for "ALTER DATABASE $name OWNER TO regress_passing",
			  "GRANT CREATE ON DATABASE $name TO " . getpwuid($<),
			  'REASSIGN OWNED BY regress_owner TO regress_passing';
		});
	ok($admin->do('DROP ROLE regress_passing'), 'and so can one that owned it')
	  or diag $admin->message;
}

# What recycling can't do goes through core's code, and leaves nothing.
{
	my $folder = PostgreSQL::Test::Utils::tempdir;
	run($admin, "CREATE TABLESPACE regress_space LOCATION '$folder'");
	my ($space) = $admin->query("SELECT oid FROM pg_tablespace WHERE spcname = 'regress_space'");
	for my $how (
		'CREATE TABLE away (i) TABLESPACE regress_space AS SELECT 1',
		'ALTER DATABASE %s SET TABLESPACE regress_space')
	{
		my $name = clone();
		my $oid = oid_of($admin, $name);
		if ($how =~ /%s/)
		{
			run($admin, sprintf $how, $name);
		}
		else
		{
			my $client = $node->session($name);
			run($client, $how);
		}
		is($admin->query("SELECT testdb_drop('$name')"), 't', "dropped after: $how") or diag $admin->message;
		is($admin->query("SELECT count(*) FROM pg_database WHERE oid = $oid"), 0, 'removed for good');
		ok(!-e $node->data_dir . "/base/$oid", 'its directory has gone');
		is(join(' ', glob "$folder/*/$oid"), '', 'so has the one in the tablespace');
		ok(!-e $node->data_dir . "/pg_testdb/clones/$oid", 'and its lease');
	}
	ok($admin->do('DROP TABLESPACE regress_space'), 'the tablespace is empty') or diag $admin->message;

	my $name = clone();
	my $oid = oid_of($admin, $name);
	run($admin, "ALTER DATABASE $name IS_TEMPLATE true");
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'a clone that was made a template is dropped')
	  or diag $admin->message;
	is(run($admin, "SELECT datistemplate FROM pg_database WHERE oid = $oid"), 'f', 'its next life is no template')
	  if defined $node->spare_of($oid, $name);

	$name = clone();
	my $client = $node->session($name);
	run($client, 'SET log_min_messages = error');
	run($client, q{CREATE SUBSCRIPTION regress_sub CONNECTION 'dbname=none' PUBLICATION p
		WITH (connect = false, slot_name = NONE)});
	is($admin->query("SELECT testdb_drop('$name')"), 't', 'a clone with a subscription is dropped')
	  or diag $admin->message;
	is(run($admin, 'SELECT count(*) FROM pg_subscription'), 0, 'and with it the subscription');
}

# A clone of a clone: nothing of the first one's former life may be found in its next.
{
	run($admin, "SELECT testdb_drop('$previous')");
	undef $previous;
	my $name = clone();
	my $oid = oid_of($admin, $name);
	my $client = $node->session($name);
	run($client, 'CREATE TABLE secret (i int)');
	$client->close;
	my $child = $admin->query("SELECT testdb_clone('$name')") or die $admin->message;
	is($node->session($child)->query('SELECT count(*) FROM secret'), 0, 'a clone can be cloned');
	my $child_oid = oid_of($admin, $child);
	run($admin, "SELECT testdb_drop('$child')");
	$node->spare_of($child_oid, $child);
	run($admin, "SELECT testdb_reset('$name')");
	$child = $admin->query("SELECT testdb_clone('$name')") or die $admin->message;
	ok( !$node->session($child)->do('SELECT count(*) FROM secret'),
		'when it was reset, its clones are of the new content');
	run($admin, "SELECT testdb_drop('$child')");
	run($admin, "SELECT testdb_drop('$name')");
	$node->spare_of($oid, $name);

	my $next = clone();
	my $grandchild = $admin->query("SELECT testdb_clone('$next')") or die $admin->message;
	ok( !$node->session($grandchild)->do('SELECT count(*) FROM secret'),
		'a clone of the next life has nothing of the former');
	is(differences($template_rows, catalog_rows($admin, oid_of($admin, $next))), '', 'the next life: catalogs');
	run($admin, "SELECT testdb_drop('$_')") for $grandchild, $next;
	ok( poll(
			sub {
				!$admin->query(
					qq{SELECT count(*) FROM pg_database
					WHERE datname LIKE '$name%' OR datname LIKE '$next\\_%'});
			}),
		'spares of a clone go when it goes');
}

# Nobody gets into a spare, and who tries leaves nothing there.
{
	my $name = clone();
	my $oid = oid_of($admin, $name);
	run($admin, "SELECT testdb_drop('$name')");
	my $spare = $node->spare_of($oid, $name);
	is($admin->query("SELECT count(*) FROM testdb_clones WHERE name = '$spare'"),
		0, 'a spare is not shown as handed out');
	ok(!$admin->do("SELECT testdb_drop('$spare')"), 'a spare cannot be dropped');
	is($admin->sqlstate, '55000', 'it is nobody\'s');
	my $client = $node->connect_to($spare);
	is($client->sqlstate, '55000', 'nobody can connect to a spare') or diag $client->message;
	my $next = clone();
	is($next, $spare, 'it is handed out all the same');
	is($node->session($next)->query('SELECT count(*) FROM plain'), 3000, 'what is handed out can be used');
	run($admin, "SELECT testdb_drop('$next')");
}

# Spares that were changed with plain SQL.
for my $case (
	[ 'dropped', 'DROP DATABASE %s' ],
	[ 'renamed', 'ALTER DATABASE %s RENAME TO regression_stolen' ],
	[ 'given away', 'ALTER DATABASE %s OWNER TO regress_owner' ],
	[ 'closed', 'ALTER DATABASE %s ALLOW_CONNECTIONS false' ],
	[ 'changed', "ALTER DATABASE %s SET work_mem = '17MB'" ])
{
	my ($title, $sql) = @$case;
	my $name = clone();
	my $oid = oid_of($admin, $name);
	run($admin, "SELECT testdb_drop('$name')");
	my $spare = $node->spare_of($oid, $name);
	# To refuse is as good as to notice.
	my $done = $admin->do(sprintf $sql, $spare);
	my $next = clone();
	my $client = $node->connect_to($next);
	is($client->query('SELECT current_database() FROM plain LIMIT 1'),
		$next, "a spare was $title: the next clone can be used")
	  or diag $client->message;
	my $next_oid = oid_of($admin, $next);
	is(differences($template_rows, catalog_rows($admin, $next_oid)),
		'', "a spare was $title: catalogs of the next clone")
	  if $next_oid;
	$client->close;
	$admin->do("SELECT testdb_drop('$next', true)") or diag $admin->message;
	$admin->do('DROP DATABASE IF EXISTS regression_stolen');
	$admin->do("SELECT testdb_drop('$spare', true)");
}

# A role that used testdb can be dropped when it has dropped its clones.
{
	my $user = $node->connect_to('postgres', user => 'regress_user');
	my $name = clone($user);
	run($user, "SELECT testdb_drop('$name')");
	$user->close;
	ok(poll(sub { $admin->do('DROP ROLE regress_user') }, 30), 'a role whose clones were all dropped can be dropped')
	  or diag $admin->message;
}

log_is_clean();
$node->stop;
done_testing();
