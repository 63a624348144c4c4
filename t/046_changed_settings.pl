
# Somebody has changed the settings of a clone, or its row, in a transaction that is still open when the clone is dropped, reset
# or rewound: what is committed afterwards is not in the clone's next life, nor is what is undone missing from it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbHold;
use TestdbTest;

my $template = 'regression_template';
my $node = new_server(
	'main', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 4
testdb.lock_timeout = 500ms
testdb.rewind_timeout = 500ms
});
my $admin = session($node, 'postgres');
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_role',
  "ALTER DATABASE $template SET work_mem = '5MB'", "ALTER ROLE regress_role IN DATABASE $template SET work_mem = '6MB'";
my $template_oid = oid_of($admin, $template);
my $wanted = catalog_rows($admin, $template_oid);

# What differs between a clone and the template, in shared catalogs.
sub differs
{
	my ($oid) = @_;
	my $other = described($admin, $oid);
	return join "\n", grep { $_ ne '' } differences($wanted, catalog_rows($admin, $oid)), $other->{pg_shdescription};
}

# The settings and rows that belong to no database.
sub orphans
{
	return run(
		$admin, q{
		SELECT setdatabase, setrole FROM pg_db_role_setting
		WHERE setdatabase <> 0 AND setdatabase NOT IN (SELECT oid FROM pg_database)});
}

my @changes = (
	[ 'ALTER DATABASE SET', "ALTER DATABASE %s SET geqo = off" ],
	[ 'ALTER DATABASE SET of the same', "ALTER DATABASE %s SET work_mem = '7MB'" ],
	[ 'ALTER DATABASE RESET ALL', 'ALTER DATABASE %s RESET ALL' ],
	[ 'ALTER ROLE IN DATABASE SET', 'ALTER ROLE regress_role IN DATABASE %s SET geqo = off' ],
	[ 'ALTER ROLE IN DATABASE RESET', 'ALTER ROLE regress_role IN DATABASE %s RESET work_mem' ],
	[ 'ALTER ROLE ALL IN DATABASE SET', 'ALTER ROLE ALL IN DATABASE %s SET geqo = off' ],
	[ 'ALTER ROLE IN DATABASE in a savepoint', 'SAVEPOINT s; ALTER ROLE postgres IN DATABASE %s SET geqo = off' ],
	[ 'GRANT', 'GRANT CREATE ON DATABASE %s TO regress_role' ],
	[ 'COMMENT', q{COMMENT ON DATABASE %s IS 'theirs'} ]);

for my $change (@changes)
{
	my ($what, $statement) = @$change;
	for my $deed (qw(testdb_drop testdb_reset testdb_rewind))
	{
		my $title = "$what, $deed";
		my $name = run($admin, "SELECT testdb_clone('$template')");
		my $oid = oid_of($admin, $name);
		my $other = session($node, 'postgres', name => 'regress holder');
		my $in_a_role = getpwuid($<) // 'postgres';
		(my $sql = sprintf $statement, $name) =~ s/ROLE postgres/ROLE "$in_a_role"/;
		run($other, "BEGIN; $sql");
		if ($admin->do("SELECT $deed('$name')"))
		{
			fail("$title: has not waited");
		}
		else
		{
			is($admin->sqlstate, $deed eq 'testdb_rewind' ? '55006' : '55P03', "$title: has waited")
			  or diag told($admin);
			my $pid = $other->pid;
			like(told($admin), qr/Process $pid of user "[^"]+" \(application "regress holder"\)/, "$title: for whom")
			  unless $deed eq 'testdb_rewind';
		}

		# What waits gets it when the change is committed, and it is gone then.
		my $waiting = session($node, 'postgres');
		run($waiting, 'SET testdb.rewind_timeout = 20000');
		$waiting->send("SELECT $deed('$name')");
		ok(!$waiting->readable(0.1), "$title: waits");
		run($other, 'COMMIT');
		$other->close;
		$waiting->result;
		is($waiting->message, '', "$title: succeeds after that");
		$waiting->close;

		if ($deed eq 'testdb_drop')
		{
			my $next = run($admin, "SELECT testdb_clone('$template')");
			$oid = oid_of($admin, $next);
			$name = $next;
		}
		is(differs($oid), '', "$title: nothing is left of it");
		run($admin, "SELECT testdb_drop('$name')");
	}
}
is(orphans(), '', 'no settings of databases that have gone');

# A transaction of the clone's own session, and one that was prepared in it, end with its life.
for my $how ('an open transaction', 'a prepared transaction')
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $client = session($node, $name);
	run($client, "BEGIN; ALTER DATABASE $name SET geqo = off");
	run($client, q{PREPARE TRANSACTION 'regress inside'}) if $how =~ /prepared/;
	ok($admin->do("SELECT testdb_drop('$name')"), "$how in the clone is no hindrance") or diag told($admin);
	my $next = run($admin, "SELECT testdb_clone('$template')");
	is(differs(oid_of($admin, $next)), '', "$how in the clone: nothing is left of it");
	run($admin, "SELECT testdb_drop('$next')");
}

# One that was prepared elsewhere is waited for.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $client = session($node, 'postgres');
	run($client, "BEGIN; ALTER DATABASE $name SET geqo = off");
	run($client, q{PREPARE TRANSACTION 'regress outside'});
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'a transaction prepared elsewhere is waited for');
	is($admin->sqlstate, '55P03', 'as the error says') or diag told($admin);
	run($client, q{COMMIT PREPARED 'regress outside'});
	ok($admin->do("SELECT testdb_drop('$name')"), 'when it is committed the clone is dropped');
	my $next = run($admin, "SELECT testdb_clone('$template')");
	is(differs(oid_of($admin, $next)), '', 'and nothing is left of it');
	run($admin, "SELECT testdb_drop('$next')");
}
is(orphans(), '', 'still none');

$node->stop;
done_testing();
