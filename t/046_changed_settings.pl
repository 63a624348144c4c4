
# Somebody has changed the settings of a clone, or its row, in a transaction that is still open when the clone is dropped, reset
# or rewound: what is committed afterwards is not in the clone's next life, nor is what is undone missing from it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'main', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 4
testdb.workers = 9
max_worker_processes = 16
testdb.lock_timeout = 500ms
testdb.rewind_timeout = 500ms
});
my $admin = $node->session('postgres');
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

# Each deed to as many clones as there are changes, at the same time, since each waits for half a second.
for my $deed (qw(testdb_drop testdb_reset testdb_rewind))
{
	my @cases;
	for my $change (@changes)
	{
		my ($what, $statement) = @$change;
		my $name = run($admin, "SELECT testdb_clone('$template')");
		my $other = $node->session('postgres', name => 'regress holder');
		my $in_a_role = getpwuid($<) // 'postgres';
		(my $sql = sprintf $statement, $name) =~ s/ROLE postgres/ROLE "$in_a_role"/;
		run($other, "BEGIN; $sql");
		push @cases,
		  {
			title => "$what, $deed",
			name => $name,
			oid => oid_of($admin, $name),
			other => $other,
			caller => $node->session('postgres')
		  };
	}
	$_->{caller}->send("SELECT $deed('$_->{name}')") for @cases;
	for my $case (@cases)
	{
		my ($title, $caller) = @{$case}{qw(title caller)};
		if ($caller->result->{error})
		{
			is($caller->sqlstate, $deed eq 'testdb_rewind' ? '55006' : '55P03', "$title: has waited")
			  or diag $caller->told;
			my $pid = $case->{other}->pid;
			like($caller->told, qr/Process $pid of user "[^"]+" \(application "regress holder"\)/, "$title: for whom")
			  unless $deed eq 'testdb_rewind';
		}
		else
		{
			fail("$title: has not waited");
		}
	}

	# What waits gets it when the change is committed, and it is gone then.
	$node->set_conf('reload', 'testdb.lock_timeout' => '20s');
	for my $case (@cases)
	{
		my ($title, $caller) = @{$case}{qw(title caller)};
		run($caller, 'SET testdb.rewind_timeout = 20000');
		$caller->send("SELECT $deed('$case->{name}')");
		ok(!$caller->readable(0.1), "$title: waits");
		run($case->{other}, 'COMMIT');
		$case->{other}->close;
		$caller->result;
		is($caller->message, '', "$title: succeeds after that");
		$caller->close;
	}
	for my $case (@cases)
	{
		if ($deed eq 'testdb_drop')
		{
			$case->{name} = run($admin, "SELECT testdb_clone('$template')");
			$case->{oid} = oid_of($admin, $case->{name});
		}
		is(differs($case->{oid}), '', "$case->{title}: nothing is left of it");
	}
	run($admin, "SELECT testdb_drop('$_->{name}')") for @cases;
	$node->set_conf('reload', 'testdb.lock_timeout' => '500ms');
}
is(orphans(), '', 'no settings of databases that have gone');

# A transaction of the clone's own session, and one that was prepared in it, end with its life.
for my $how ('an open transaction', 'a prepared transaction')
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $client = $node->session($name);
	run($client, "BEGIN; ALTER DATABASE $name SET geqo = off");
	run($client, q{PREPARE TRANSACTION 'regress inside'}) if $how =~ /prepared/;
	ok($admin->do("SELECT testdb_drop('$name')"), "$how in the clone is no hindrance") or diag $admin->told;
	my $next = run($admin, "SELECT testdb_clone('$template')");
	is(differs(oid_of($admin, $next)), '', "$how in the clone: nothing is left of it");
	run($admin, "SELECT testdb_drop('$next')");
}

# One that was prepared elsewhere is waited for.
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $client = $node->session('postgres');
	run($client, "BEGIN; ALTER DATABASE $name SET geqo = off");
	run($client, q{PREPARE TRANSACTION 'regress outside'});
	ok(!$admin->do("SELECT testdb_drop('$name')"), 'a transaction prepared elsewhere is waited for');
	is($admin->sqlstate, '55P03', 'as the error says') or diag $admin->told;
	run($client, q{COMMIT PREPARED 'regress outside'});
	ok($admin->do("SELECT testdb_drop('$name')"), 'when it is committed the clone is dropped');
	my $next = run($admin, "SELECT testdb_clone('$template')");
	is(differs(oid_of($admin, $next)), '', 'and nothing is left of it');
	run($admin, "SELECT testdb_drop('$next')");
}
is(orphans(), '', 'still none');

# The template's own settings, changed by a transaction that was prepared before its spares were made, or before the server's start:
# they are in the first clone after its commit.
for my $when ('before the spares', 'before the start')
{
	my $value = $when =~ /start/ ? '17MB' : '16MB';
	my $setting = sub {
		my $name = run($admin, "SELECT testdb_clone('$template')");
		my $client = $node->session($name);
		my $is = run($client, 'SHOW work_mem');
		$node->leave($client, $admin);
		run($admin, "SELECT testdb_drop('$name')");
		return $is;
	};
	my $before = $setting->();
	my $client = $node->session('postgres');
	run($client, $_)
	  for 'BEGIN', "ALTER DATABASE $template SET work_mem = '$value'", q{PREPARE TRANSACTION 'regress settings'};
	$node->leave($client, $admin);
	if ($when =~ /start/)
	{
		$admin->close;
		$node->restart;
		$admin = $node->session('postgres');
	}
	run($admin, "SELECT testdb_prewarm('$template', 3)");
	is($setting->(), $before, "settings prepared $when: not committed yet");
	run($admin, q{COMMIT PREPARED 'regress settings'});
	is($setting->(), $value, "settings prepared $when: in the first clone after the commit");
}

# While nobody knows what a prepared transaction of before the start has done, spares are handed out nevertheless.
{
	my $client = $node->session('postgres');
	run($client, $_) for 'BEGIN', 'CREATE TABLE unrelated ()', q{PREPARE TRANSACTION 'regress unrelated'};
	$node->leave($client, $admin);
	$admin->close;
	$node->restart;
	$admin = $node->session('postgres');
	run($admin, "SELECT testdb_template_set('$template', 3)");
	run($admin, "SELECT testdb_prewarm('$template', 3)");
	my $hits = run($admin, 'SELECT sum(hits) FROM testdb_stats');
	my $name = run($admin, "SELECT testdb_clone('$template')");
	is(run($admin, 'SELECT sum(hits) FROM testdb_stats'),
		$hits + 1, 'a prepared transaction of before the start: a spare is used');
	run($admin, "SELECT testdb_drop('$name')");
	run($admin, q{ROLLBACK PREPARED 'regress unrelated'});
}

$node->stop;
done_testing();
