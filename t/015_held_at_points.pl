
# Processes are held at a point while something else happens that would hardly ever happen just then: somebody begins to follow WAL, a
# file of the snapshot vanishes, the server has only begun to start, a checkpoint is under way; or the server is killed after a step
# that only now and then comes at all. Needs a library that was built with DEBUG=1; test/run makes one for this test.
#
#   TESTDB_POINTS        only these points

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbPoints;
use TestdbSteps;
use TestdbTest;

BEGIN { plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG} }
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

# Somebody begins to follow WAL when it has been asked whether anybody does, and a clone's files are written to it by
# their names.
sub try_follower
{
	my $what = 'clone while somebody begins to follow WAL';
	my $name = 'regression_mine_' . ++$nnames;
	restart();
	my $client = hold_at('clone-logged', "SELECT testdb_clone('$template', '$name')");
	my $first = $admin->query(q{SELECT oid FROM testdb_clones() WHERE state = 'creating'});
	like($first, qr/^\d+$/, "$what: it is being made");
	run($admin, q{SELECT pg_create_physical_replication_slot('follower')});
	$node->use_point('');
	my $answer = $client->result;
	$node->leave($client, $admin);
	is($answer->{error} ? $answer->{error}{M} : $answer->{rows}[0][0], $name, "$what: it is made");
	isnt(oid_of($admin, $name), $first, "$what: once more");
	run($admin, q{SELECT pg_drop_replication_slot('follower')});
	$held{$name} = $number;
	is_right($what);
	return;
}

# A copy fails when it is in WAL already, and the server is killed when its files have been removed: recovery must not make them
# again.
sub try_removed
{
	my $what = 'clone fails when WAL has it, and the server is killed';
	restart();
	my $position = -s $node->logfile;
	$node->use_point('clone-logged error');
	ok(!$admin->do("SELECT testdb_clone('$template', 'regression_mine_" . ++$nnames . q{')}), "$what: it fails");
	$node->use_point('');
	wait_for_log(qr/removed directory .* of an incompletely created database/, $position);
	settle();
	$node->kill_server;
	unlike(
		slurp_file($node->logfile, $position),
		qr/was reached.*checkpoint/s,
		"$what: there was no checkpoint meanwhile");
	$node->start_again;
	$admin = $node->connect_to('postgres');
	is_right(
		$what,
		qr/ERROR:  debug point "clone-logged" was reached/,
		qr/FATAL:  terminating connection due to unexpected postmaster exit/);
	return;
}

# A file of the snapshot vanishes when it has been found to be there, and there may be no way back: what is being made or
# restored gets the template's content all the same, and who asked for it is told of an error only if that says what becomes of
# it.
my @damaged = (
	[ 'clone', 'clone-row', sub { return "SELECT testdb_clone('$template', 'regression_mine_" . ++$nnames . q{')} } ],
	[ 'drop, for another life', 'recycle-closed', sub { return "SELECT testdb_drop('$_[0]')" } ],
	[ 'reset', 'restore-discarded', sub { return "SELECT testdb_reset('$_[0]')" } ],
	[
		'rewind', 'rewind-discarded',
		sub { return "SELECT testdb_rewind('$_[0]')" }, qr/^55000 .*damaged while a database was being rewound/
	]);

sub try_damaged
{
	my ($case, $point, $statement, $error) = @_;
	my $what = "$case, the snapshot is damaged at $point";
	run($admin, "SELECT testdb_template_set('$template', 0)");
	restart();
	my $name = clone();
	my $client = $node->connect_to($name);
	my $file = run($client, q{SELECT pg_relation_filenode('base')});
	run($client, q{UPDATE base SET t = 'mine'}) unless $case eq 'clone';
	$node->leave($client, $admin);
	$client = hold_at($point, $statement->($name));
	my $position = -s $node->logfile;
	unlink $node->data_dir . '/pg_testdb/snapshots/' . oid_of($admin, $template) . "/$file" or die $!;
	$node->use_point('');
	my $answer = $client->result;
	my $told = $answer->{error} ? "$answer->{error}{C} $answer->{error}{M}" : '';
	$node->leave($client, $admin);
	$error ? like($told, $error, "$what: the error says so") : is($told, '', "$what: no error");
	wait_for_log(qr/snapshot of template "$template" must be taken anew/, $position);
	$held{$name} = $case =~ /drop/ ? 'gone' : $number;
	is_right(
		$what,
		qr/LOG:  .*snapshot of template "$template" must be taken anew/,
		$error ? qr/ERROR:  snapshot of the template was damaged/ : ());
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	return;
}

# A template is dropped, and the server is killed before what was made ahead of it has gone, or just after: nothing of it stays,
# but for the template's row, marked as invalid, if that is not committed yet, as after PostgreSQL's own DROP DATABASE.
sub try_dropped
{
	my ($point) = @_;
	my $what = "DROP DATABASE of a template, kill at $point";
	run($admin, 'CREATE DATABASE regression_other');
	run($admin, q{SELECT testdb_prewarm('regression_other', 2)});
	settle();
	my $oid = oid_of($admin, 'regression_other');
	$node->use_point("$point kill");
	$admin->do('DROP DATABASE regression_other');
	ok(poll(\&server_is_gone, 30), "$what: comes there") or $node->stop('immediate');
	$node->set_point('');
	start();
	settle();
	is( run($admin,
			q{SELECT coalesce(string_agg(datname, ' '), '') FROM pg_database WHERE datname LIKE 'regression_other%'
		AND NOT (datname = 'regression_other' AND datconnlimit = -2)}),
		'',
		"$what: nothing is left of it");
	ok(!-e $node->data_dir . "/pg_testdb/snapshots/$oid", "$what: no snapshot");
	ok($admin->do('DROP DATABASE IF EXISTS regression_other'), "$what: its name is free") or diag $admin->message;
	is_right(
		$what,
		qr/LOG:  unexpected pageaddr/,
		qr/WARNING:  (could not open directory "base|some useless files may be left)/);
	return;
}

# Somebody calls when the server has started, but what testdb made is not yet known: the clone that is to be cloned is.
sub try_early
{
	my ($what, $statement, @before) = @_;
	my $name = clone();
	run($admin, $_) for @before;
	$node->set_point('start-begun wait');
	$admin->close;
	$node->restart;
	$admin = $node->connect_to('postgres');
	my $client = $node->connect_to('postgres');
	run($client, 'SET testdb.serve_create_database = on');
	$client->send(sprintf $statement, $name);
	ok( poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND pid = }
					  . $client->pid);
			}),
		"$what, just after the start: waits");
	$node->use_point('');
	$client->result;
	is($client->message, '', "$what: and is answered");
	$node->leave($client, $admin);
	run($admin, 'DROP DATABASE IF EXISTS regression_early');
	run($admin, "SELECT testdb_drop_all()");
	%held = ();
	return;
}

# The configuration is read again while workers have only begun to start, and discard the signal that tells them of it: they know it
# all the same.
sub try_reload
{
	my $what = 'reload while workers start';
	my $stopped = sub {
		return grep { state_of($_) eq 'T' } $node->pids_by_title(qr/postgres: .*testdb worker/);
	};
	restart();
	my $nworkers = run($admin, 'SHOW testdb.workers');
	poll(sub { is_idle($admin) }) or die 'there are not all workers';
	$node->use_point('worker-start stop');
	run($admin, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'testdb worker'});
	my @pids;
	ok(poll(sub { (@pids = $stopped->()) == $nworkers }), "$what: they are about to");
	$node->use_point('clone-recorded error');
	kill 'CONT', @pids;
	ok(!$admin->do("SELECT testdb_clone('$template', 'regression_mine_" . ++$nnames . q{')}),
		"$what: the point is known");
	like($admin->message, qr/debug point "clone-recorded" was reached/, "$what: and the error is of that");
	$node->use_point('');
	is_right(
		$what,
		qr/ERROR:  debug point "clone-recorded" was reached/,
		qr/FATAL:  terminating background worker "testdb worker"/);
	return;
}

# A checkpoint that began in a clone's life has not come to its pages when they are to be thrown away, and the server ends
# when it has just been completed: recovery starts in the middle of the clone's life, and finds its pages as old as that.
sub try_checkpoint
{
	my $what = 'drop in the middle of a checkpoint';
	my $position;
	prewarm(1);
	my $name = clone();
	run($admin, 'SELECT pg_switch_wal()');
	run($admin, 'CHECKPOINT');
	run($admin, 'UPDATE ballast SET i = i');
	my $client = $node->connect_to($name);
	run($client, 'INSERT INTO base (i) SELECT generate_series(10001, 10050)');
	$position = -s $node->logfile;
	run($admin, 'SELECT pg_switch_wal()');
	wait_for_log(qr/checkpoint starting: (wal|xlog)/, $position);
	run($client, 'INSERT INTO base (i) SELECT generate_series(10051, 10100)');
	$node->leave($client, $admin);

	$client = hold_at('recycle-discarded', "SELECT testdb_drop('$name')");
	$client->result;
	$node->leave($client, $admin);
	$held{$name} = 'gone';
	unlike(slurp_file($node->logfile, $position), qr/checkpoint complete/, "$what: it is not complete");
	$node->append_conf('postgresql.conf', 'checkpoint_completion_target = 0');
	run($admin, 'SELECT pg_reload_conf()');
	wait_for_log(qr/checkpoint complete/, $position);
	unlike(
		slurp_file($node->logfile, $position),
		qr/checkpoint complete.*checkpoint starting/s,
		"$what: it was the last one");
	$node->kill_server;
	$node->set_point('');
	$node->start_again;
	$admin = $node->connect_to('postgres');
	is_right($what, qr/LOG:  unexpected pageaddr/,
		qr/FATAL:  terminating connection due to unexpected postmaster exit/);
	return;
}

# CREATE DATABASE waits for the lock of a clone that is being reset when the worker ends: it must not copy what that leaves.
sub try_copied
{
	my ($served) = @_;
	my $what = "copy of a clone whose reset fails, serving $served";
	my $name = clone();
	write_to($name);
	my $client = hold_at('restore-closed', "SELECT testdb_reset('$name')");
	my $other = $node->connect_to('postgres');
	run($other, "SET testdb.serve_create_database = $served");
	$other->send("CREATE DATABASE regression_copy TEMPLATE $name");
	ok( poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = } . $other->pid);
			}),
		"$what: waits for the lock");
	$node->set_point('');
	run($admin,
		q{SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE backend_type = 'testdb worker' AND mode = 'AccessExclusiveLock' AND classid = 'pg_database'::regclass});
	ok($client->result->{error}, "$what: the reset fails");
	$node->reload;
	$other->result;
	is($other->message, '', "$what: succeeds");
	is($node->in_database('regression_copy', q{SELECT to_regclass('own') IS NULL AND count(*) > 0 FROM base}),
		't', "$what: has the clone's content when it was restored");
	run($other, 'DROP DATABASE regression_copy');
	$node->leave($_, $admin) for $client, $other;
	is_right(
		$what,
		qr/FATAL:  terminating background worker "testdb worker"/,
		qr/ERROR:  testdb worker ended before it had finished/);
	return;
}

# A base backup is taken while a clone is being reset, so its lease says so, for ever on a standby: there WAL brings the files.
sub try_backup
{
	my $what = 'backup during a reset';
	my $name = clone();
	write_to($name);
	my $client = hold_at('restore-content', "SELECT testdb_reset('$name')");
	$node->backup('during', backup_options => [ '--checkpoint', 'fast' ]);
	$node->use_point('');
	$client->result;
	is($client->message, '', "$what: the reset succeeds");
	$node->leave($client, $admin);
	my $standby = TestdbCluster->new('standby');
	$standby->init_from_backup($node, 'during', has_streaming => 1);
	$standby->start;
	run($admin, 'SELECT pg_switch_wal()');
	$node->wait_for_catchup($standby);
	my $content = q{SELECT md5(string_agg(i || t, NULL ORDER BY i)), to_regclass('own') FROM base};
	is( $standby->in_database($name, $content),
		$node->in_database($name, $content),
		"$what: the standby has the same clone");
	$standby->stop;
	return;
}

new_cluster('held', "wal_level = minimal\nmax_wal_senders = 0");
for my $case (@damaged)
{
	try_damaged(@$case) if wanted($case->[1]);
}
for my $served ('off', 'on')
{
	try_copied($served) if wanted('restore-closed');
}
for my $point ('template-dropped', 'template-cleared')
{
	try_dropped($point) if wanted($point);
}
try_reload() if wanted('worker-start');
try_early(@$_)
  for grep { wanted('start-begun') }[ 'testdb_clone', q{SELECT testdb_clone('%s')} ],
  [ 'testdb_prewarm', q{SELECT testdb_prewarm('%s', 1)} ],
  [ 'testdb_reset', q{SELECT testdb_reset('%s')} ],
  [ 'testdb_rewind', q{SELECT testdb_rewind('%s')} ],
  [ 'testdb_keep', q{SELECT testdb_keep('%s')} ],
  [ 'testdb_drop', q{SELECT testdb_drop('%s')} ],
  [ 'CREATE DATABASE', 'CREATE DATABASE regression_early TEMPLATE %s' ], [ 'DROP DATABASE', 'DROP DATABASE %s' ],
  [
	'DROP ROLE',
	'DROP ROLE regression_leaver',
	'CREATE ROLE regression_leaver SUPERUSER',
	'SET SESSION AUTHORIZATION regression_leaver',
	"SELECT testdb_prewarm('$template', 1)",
	'RESET SESSION AUTHORIZATION'
  ];
stop();

if (wanted('clone-logged'))
{
	new_cluster('held_logged', 'wal_level = replica');
	try_follower();
	try_removed();
	stop();
}

if (wanted('restore-content'))
{
	new_cluster('held_backup', 'wal_level = replica', undef, allows_streaming => 1);
	try_backup();
	stop();
}

if (wanted('recycle-discarded'))
{
	new_cluster(
		'checkpoint', q{
wal_level = minimal
max_wal_senders = 0
full_page_writes = off
max_wal_size = 2MB
min_wal_size = 2MB
checkpoint_timeout = 1d
bgwriter_lru_maxpages = 0
log_checkpoints = on
testdb.spares = 1
},
		# A checkpoint comes to older tables first, and takes 100 ms for each of these pages.
		[
			'CREATE TABLE ballast (i int, t text) WITH (fillfactor = 40)',
			'ALTER TABLE ballast ALTER t SET STORAGE PLAIN',
			q{INSERT INTO ballast SELECT i, repeat('x', 2000) FROM generate_series(1, 200) i}
		],
		extra => ['--wal-segsize=1']);
	try_checkpoint();
	stop();
}

done_testing();
