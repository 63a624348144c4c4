
# Sixteen processes that come together and all want the same template: it is built once, whoever of them is killed, and
# they all get their clones. Templates of one name do not add up. Autovacuum has nothing to do in a finished one: with
# TESTDB_LONG=1 that is watched for 2 minutes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

my $n = 16;
my $node = TestdbCluster->new_server('together', "testdb.spares = 2\nmax_worker_processes = 16");
my $dir = $PostgreSQL::Test::Utils::tmp_check;
my $admin = $node->session('postgres');

# How many sessions wait for the builder of a template.
sub waiting
{
	my ($client) = @_;
	return $client->query(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'TestdbTemplateBuild' OR (wait_event = 'Extension' AND query LIKE 'SELECT * FROM testdb_template_begin%')}
	) // -1;
}

# What a process of a suite does; it ends with 0 if all went well. Builders write a line to the file $notes and, in the
# middle of their work, when all the others wait, call $middle.
sub suite
{
	my ($name, $notes, $others, $middle) = @_;
	my $client = $node->connect_to('postgres', timeout => 120);
	return 2 if $client->error;
	my $row = ($client->rows("SELECT * FROM testdb_template_begin('$name', 'f')"))[0];
	return 3 if $client->error;
	my ($template, $build) = @$row;
	if ($build eq 't')
	{
		append_to_file($notes, "$$\n");
		my $inside = $node->connect_to($template);
		return 4 unless $inside->do('CREATE TABLE built AS SELECT generate_series(1, 1000) AS i');
		my $watch = $node->connect_to('postgres');
		poll(sub { waiting($watch) >= $others->() }, 60) or return 5;
		$watch->close;
		$middle->($client);
		$inside->close;
		return 6 unless $client->do("SELECT testdb_template_finish('$template')");
	}
	my $clone = $client->query("SELECT testdb_clone('$template')") or return 7;
	my $inside = $node->connect_to($clone);
	return 8 unless ($inside->query('SELECT count(*) FROM built') // '') eq '1000';
	return 9 unless $inside->do('DELETE FROM built WHERE i > 10');
	$inside->close;
	return 10 unless $client->do("SELECT testdb_drop('$clone')");
	$client->close;
	return 0;
}

# Runs the suite in so many processes; the number of builders, and how the processes ended.
sub run_together
{
	my ($name, $middle) = @_;
	my $notes = "$dir/$name";
	append_to_file($notes, '');
	my $builders = sub { return scalar(() = slurp_file($notes) =~ /\n/g) };
	my @pids;
	for (1 .. $n)
	{
		my $pid = fork // die $!;
		if ($pid == 0)
		{
			# Those who have built before, and ended, do not wait.
			my $status = eval {
				suite($name, $notes, sub { $n - $builders->() }, sub { $middle->($builders->(), @_) });
			} // 99;
			POSIX::_exit($status);
		}
		push @pids, $pid;
	}
	my %ends;
	waitpid($_, 0), $ends{ $? & 127 ? 'signal ' . ($? & 127) : $? >> 8 }++ for @pids;
	return $builders->() . ' builders, ' . join ', ', map { "$ends{$_} ended with $_" } sort keys %ends;
}

# What is left of a suite: the template and its spares.
sub is_clean
{
	my ($name, $title) = @_;
	my $state = '';
	poll(
		sub {
			$state = run(
				$admin, qq{
			SELECT (SELECT count(*) FROM testdb_builds WHERE name = '$name' AND state = 'ready'), (SELECT count(*) FROM testdb_builds WHERE state = 'building'),
				(SELECT count(*) FROM pg_database WHERE datname LIKE '$name%' AND oid NOT IN (SELECT oid FROM testdb_builds())
					AND oid NOT IN (SELECT oid FROM testdb_clones() WHERE state IN ('spare', 'returned', 'restoring')))});
			$state eq '1|0|0';
		},
		60);
	return is($state, '1|0|0', "$title: one template is left, and nothing else");
}

is(run_together('regression_once', sub { }), "1 builders, $n ended with 0", 'sixteen together: one builds, all work');
is_clean('regression_once', 'sixteen together');

# The first two are killed.
is( run_together('regression_killed', sub { my ($builders) = @_; kill 'KILL', $$ if $builders < 3 }),
	'3 builders, ' . ($n - 2) . ' ended with 0, 2 ended with signal 9',
	'two builders killed: the third builds, all others work');
is_clean('regression_killed', 'two builders killed');

# So are their sessions, from outside.
is( run_together(
		'regression_ended',
		sub {
			my ($builders, $client) = @_;
			if ($builders < 3)
			{
				my $other = $node->connect_to('postgres');
				$other->do('SELECT pg_terminate_backend(' . $client->pid . ')');
				$other->close;
			}
		}),
	'3 builders, ' . ($n - 2) . ' ended with 0, 2 ended with 6',
	'two builders\' sessions terminated: the third builds');
is_clean('regression_ended', 'two sessions terminated');

# The server is killed in the middle of the build. Then everybody comes again, and goes on coming until all is well.
{
	my $notes = "$dir/regression_server";
	my $reached = "$dir/reached";
	append_to_file($notes, '');
	$admin->close;
	my @pids;
	for (1 .. $n)
	{
		my $pid = fork // die $!;
		if ($pid == 0)
		{
			my $middle = sub {
				my ($client) = @_;
				return if -e $reached;
				append_to_file($reached, 'yes');
				poll(sub { !$client->do('SELECT 1') }, 60);
			};
			my $done = poll(
				sub {
					(   eval {
							suite('regression_server', $notes, sub { -e $reached ? 0 : $n - 1 }, $middle);
						} // 99) == 0;
				},
				120);
			POSIX::_exit($done ? 0 : 1);
		}
		push @pids, $pid;
	}
	poll(sub { -e $reached }, 60) or die 'the build was not reached';
	$node->kill_server;
	$node->start_again;
	my %ends;
	waitpid($_, 0), $ends{$?}++ for @pids;
	is(join(' ', %ends), "0 $n", 'the server killed in the middle: all work when they have come again');
	is(scalar(() = slurp_file($notes) =~ /\n/g), 2, 'the server killed in the middle: it is built once more');
	$admin = $node->session('postgres');
	is_clean('regression_server', 'the server killed in the middle');
}

# Twenty versions of one template.
{
	my @dbs;
	my $settle = sub {
		my ($last, $same) = ('', 0);
		poll(
			sub {
				my $now = run($admin,
					q{SELECT string_agg(state || ' ' || n, ' ') FROM (SELECT state, count(*) AS n FROM testdb_clones() GROUP BY 1 ORDER BY 1) s}
				);
				$same = $now eq $last && $now !~ /creating|dropping|garbage|returned|restoring/ ? $same + 1 : 0;
				$last = $now;
				return $same > 20;
			},
			60) or die "not settled: $last";
		my $data = $node->data_dir;
		my %known = map { $_ => 1 } split /\n/, run($admin, 'SELECT oid FROM pg_database');
		my @orphans = grep { /(\d+)(?:\.manifest)?$/ && !$known{$1} }
		  glob "$data/base/* $data/pg_testdb/clones/* $data/pg_testdb/snapshots/*";
		my $spares = run($admin,
			q{SELECT count(*) FROM pg_database WHERE datname LIKE 'regression_versions%' AND oid NOT IN (SELECT oid FROM testdb_builds())}
		);
		return ($spares,
			run($admin, q{SELECT count(*) FROM testdb_builds WHERE name = 'regression_versions'})
			  . " templates, files of others: @orphans");
	};
	my ($spares, $after_third);
	my $most = 0;
	for my $i (1 .. 20)
	{
		my $client = $node->session('postgres');
		my ($db) = split /\|/, run($client, "SELECT * FROM testdb_template_begin('regression_versions', 'f$i')");
		run($client, "SELECT testdb_template_finish('$db')");
		$client->close;
		my $there = run($admin, q{SELECT count(*) FROM testdb_builds WHERE name = 'regression_versions'});
		$most = $there if $there > $most;
		($spares, $after_third) = $settle->() if $i == 3;
	}
	is($most, 3, 'twenty versions: never more than testdb.kept_templates');
	my ($spares_now, $now) = $settle->();
	is($now, $after_third, 'templates and files are as they were after the third');

	# There are two for each template, and one more where one has just been taken.
	cmp_ok($_, '<=', 9, 'spares do not add up') for $spares, $spares_now;

	# One is in use.
	my $oldest =
	  run($admin, q{SELECT database FROM testdb_builds WHERE name = 'regression_versions' ORDER BY used_at LIMIT 1});
	my $clone = run($admin, "SELECT testdb_clone('$oldest')");
	$most = 0;
	for my $i (21 .. 26)
	{
		my $client = $node->session('postgres');
		my ($db) = split /\|/, run($client, "SELECT * FROM testdb_template_begin('regression_versions', 'f$i')");
		run($client, "SELECT testdb_template_finish('$db')");
		$client->close;
		my $there = run($admin, q{SELECT count(*) FROM testdb_builds WHERE name = 'regression_versions'});
		$most = $there if $there > $most;
	}
	is($most, 4, 'one that is in use stays beside them');
	run($admin, "SELECT testdb_drop('$clone')");
}

# Nothing in a finished template waits for VACUUM or ANALYZE, not even what these have written. The second time each of their
# rows replaces one.
{
	my $client = $node->session('postgres');
	my $base = 'template1';
	my $shared = q{SELECT sum(vacuum_count) FROM pg_stat_sys_tables JOIN pg_class c ON c.oid = relid WHERE relisshared};
	my $vacuumed = run($client, $shared);
	for my $name ('regression_clean', 'regression_cleaner')
	{
		my ($db) = split /\|/, run($client, "SELECT * FROM testdb_template_begin('$name', 'f', '$base')");
		my $inside = $node->session($db);
		run($inside, $_)
		  for "CREATE TABLE ${name}_t AS SELECT i, i % 10 AS j, i % 100 AS k FROM generate_series(1, 1000) AS i",
		  "CREATE STATISTICS ${name}_s ON j, k FROM ${name}_t", 'ANALYZE';
		$inside->close;
		run($client, "SELECT testdb_template_finish('$db')");
		$base = $db;
	}
	run($admin, "ALTER DATABASE $base ALLOW_CONNECTIONS true");
	my $inside = $node->session($base);
	is( run($inside,
			q{SELECT coalesce(string_agg(concat_ws(' ', s.relname, n_dead_tup, n_mod_since_analyze), ', '), '')
				FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = relid
				WHERE NOT relisshared AND (n_dead_tup > 0 OR n_mod_since_analyze > 0 AND relkind = 'r' AND s.relname !~ '^pg_statistic')}
		),
		'',
		'a finished template has no dead rows');
	is(run($client, $shared), $vacuumed, 'tables of all databases were left alone');
	$inside->close;
	run($admin, "SELECT testdb_template_drop('$_')") for 'regression_cleaner', 'regression_clean';
	$client->close;
}

# Autovacuum is awake, as a table shows in which there is something to do, and finds nothing in a template.
{
	$node->append_conf('postgresql.conf',
		"autovacuum = on\nautovacuum_naptime = 1s\nautovacuum_vacuum_threshold = 10\nautovacuum_analyze_threshold = 10\nautovacuum_vacuum_insert_threshold = 10\nlog_autovacuum_min_duration = 0"
	);
	my $client = $node->session('postgres');
	my ($db) = split /\|/, run($client, q{SELECT * FROM testdb_template_begin('regression_quiet', 'f')});
	my $inside = $node->session($db);
	run($inside, $_)
	  for 'CREATE TABLE t AS SELECT generate_series(1, 10000) AS i', 'UPDATE t SET i = i + 1',
	  'DELETE FROM t WHERE i > 5000', 'CREATE TABLE empty (i int)';
	run($inside, "CREATE TABLE many_$_ (i int PRIMARY KEY)") for 1 .. 30;
	$inside->close;
	$node->reload;
	run($client, "SELECT testdb_template_finish('$db')");
	$client->close;
	my $position = -s $node->logfile;
	run($admin, 'CREATE TABLE canary (i int)');
	my $end = time + ($ENV{TESTDB_LONG} ? 120 : 0);
	my $rounds = 0;

	while ($rounds < 3 || time < $end)
	{
		my $before = run($admin, q{SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'canary'});
		run($admin, $_) for 'INSERT INTO canary SELECT generate_series(1, 1000)', 'DELETE FROM canary';
		poll(
			sub { run($admin, q{SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'canary'}) > $before },
			60) or die 'autovacuum sleeps';
		$rounds++;
	}
	my $log = slurp_file($node->logfile, $position);
	like($log, qr/automatic vacuum of table "postgres\.public\.canary"/, 'autovacuum is at work');

	# It vacuums tables of all databases in whichever it is.
	my $shared = run($admin, q{SELECT string_agg(relname, '|') FROM pg_class WHERE relisshared});
	unlike(
		$log,
		qr/automatic (?:aggressive )?(?:vacuum|analyze) of table "\Q$db\E\.(?!pg_catalog\.(?:$shared)")/,
		'it finds nothing to do in a finished template');
}

$admin->close;
$node->stop;
done_testing();
