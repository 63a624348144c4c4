
# The life of a clone: how long it lasts, and what ends it: its session, its time, being idle; who keeps it; what is logged.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbLife;
use TestdbTest;
use Time::HiRes qw(time);

set_up();

#
# Session scope: the end of the session, whatever it is, is the end of its clones, and of no others.
#
my %ends = (
	'disconnect' => sub { $_[0]->close },
	'a lost connection' => sub { $_[0]->vanish },
	'pg_terminate_backend' => sub { run($admin, 'SELECT pg_terminate_backend(' . $_[0]->pid . ')') });
for my $end (sort keys %ends)
{
	my $client = $node->connect_to('postgres');
	my $bystander = $node->connect_to('postgres');
	my @names = map { clone(q{NULL, 'session'}, $client) } 1 .. 2;
	my $manual = clone(undef, $client);
	my $other = clone(q{NULL, 'session'}, $bystander);
	my $kept = clone(q{NULL, 'session', label => 'kept'}, $client);
	my $dropped = clone(q{NULL, 'session'}, $client);
	is(shown($names[0], 'scope, session_pid'), 'session|' . $client->pid, "$end: the view says whose it is");
	is(run($client, "SELECT testdb_drop('$dropped')"), 't', "$end: it can be dropped before");
	run($admin, "SELECT testdb_keep('$kept', '1 hour')");
	is(shown($kept, q{scope, session_pid IS NULL, label, expires_at - now() BETWEEN '59 min' AND '1 hour'}),
		'manual|t|kept|t', "$end: the view shows a kept one as such");
	is(join(' ', grep { !exists_now($_) } @names), '', "$end: nothing goes before");
	$ends{$end}->($client);
	is(join(' ', grep { !goes($_) } @names), '', "$end: clones of session scope are dropped");
	is(count_rows($_), 100, "$end: $_ stays") for $manual, $other, $kept;
	$bystander->close;
	ok(goes($other), "$end: that of another session goes with that");
	run($admin, 'SELECT testdb_drop_all()');
}

# The client's process is killed.
{
	my ($in, $out, $err) = (qq{SELECT testdb_clone('$template', NULL, 'session');\n}, '', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \$in, '>', \$out, '2>', \$err);
	$psql->pump until $out =~ /\n/ || $err ne '';
	my ($name) = $out =~ /(\S+)/;
	ok(exists_now($name), 'kill -9 of the client: it has a clone');
	$psql->signal('KILL');
	ok(goes($name), 'kill -9 of the client: it is dropped');
	$psql->finish;
}

# Somebody is in it, it was renamed, it was dropped with plain SQL: all the same, and the log names who was there.
{
	my $client = $node->connect_to('postgres');
	my $used = clone(q{NULL, 'session'}, $client);
	my $renamed = clone(q{NULL, 'session'}, $client);
	my $gone = clone(q{NULL, 'session'}, $client);
	run($admin, "ALTER DATABASE $renamed RENAME TO regression_renamed");
	run($admin, "DROP DATABASE $gone");
	my $user = $node->connect_to($used, name => 'the user');
	my $offset = -s $node->logfile;
	$client->close;
	ok(goes($_), "session scope: $_ goes") for $used, 'regression_renamed';
	$user->do('SELECT 1');
	like($user->told, qr/^(57P01|08006)/, 'session scope: a session in it is ended');
	my ($pid, $me) = ($user->pid, scalar getpwuid $<);
	my $log = slurp_file($node->logfile, $offset);
	like(
		$log,
		qr/LOG:  dropping expired database "$used", created from template "$template"\n.*DETAIL:  .*$pid/,
		'session scope: the log says whose sessions were ended');
	unlike($log, qr/dropping database "$gone"|could not drop/, 'session scope: nothing else is in the log');
}

# It ends while its clone is being reset, by itself or by another: it is dropped afterwards. The worker waits for a lock
# on the row in pg_database, so that the clone is no longer LEASED.
for my $who ('the session itself', 'another session')
{
	my $client = $node->connect_to('postgres');
	my $name = clone(q{NULL, 'session'}, $client);
	my $caller = $who eq 'another session' ? $node->connect_to('postgres') : $client;
	my $lock = $node->connect_to('postgres');

	# What has been changed must be written, for which it is locked.
	run($lock, "ALTER DATABASE $name CONNECTION LIMIT 50");
	run($lock, "BEGIN; GRANT CONNECT ON DATABASE $name TO regress_user");
	$caller->send("SELECT testdb_reset('$name')");
	$node->wait_held(1);
	run($admin, 'SELECT pg_terminate_backend(' . $client->pid . ', 10000)');
	run($lock, 'ROLLBACK');
	$_->close for $lock, $client;
	$caller->result if $caller != $client;
	ok(goes($name), "session scope, it ends during a reset by $who: the clone is dropped")
	  or run($admin, "SELECT testdb_drop('$name', true)");
}
$node->adds_up($admin, 'session scope');

#
# Lifetime.
#
{
	my $start = time;
	my $short = clone(q{NULL, lifetime => '1 second'});
	my $long = clone(q{NULL, lifetime => '1 hour'});
	run($admin, q{SET testdb.lifetime = '1s'});
	my $default = clone();
	run($admin, 'RESET testdb.lifetime');
	my $saved = clone(q{NULL, lifetime => '1 second'});
	run($admin, "SELECT testdb_keep('$saved', NULL)");
	my $used = clone(q{NULL, lifetime => '1 second'});
	my $user = $node->connect_to($used);
	run($user, 'BEGIN; DELETE FROM t');
	my $offset = -s $node->logfile;
	ok(goes($short), 'lifetime: it is dropped');
	ok(time - $start > 0.9, 'lifetime: not before its time');
	ok(goes($_), "lifetime: $_ is dropped, too") for $default, $used;
	$user->do('SELECT 1');
	like($user->told, qr/^(57P01|08006)/, 'lifetime: a session in it is ended');
	my $log = slurp_file($node->logfile, $offset);
	my $pid = $user->pid;
	like(
		$log,
		qr/LOG:  dropping expired database "$used", created from template "$template"\n.*DETAIL:  .*$pid/,
		'lifetime: the log says whose sessions were ended');
	is(count_rows($_), 100, "lifetime: $_ stays") for $long, $saved;
	is(run($admin, 'SELECT testdb_drop_all()'), 2, 'lifetime: those that have expired are not counted again');
}

#
# Idle time: an idle session in the clone keeps it. What is set for a role counts; a kept clone is not idle.
#
run($admin, q{ALTER ROLE regress_user SET testdb.idle_timeout = '1s'});
{
	my $client = $node->connect_to('postgres', user => 'regress_user');
	my $used = clone(undef, $client);
	my $user = $node->connect_to($used, user => 'regress_user');
	my $kept = clone(undef, $client);
	run($client, "SELECT testdb_keep('$kept')");
	run($client, q{SET testdb.idle_timeout = 0});
	my $never = clone(undef, $client);
	run($client, q{RESET testdb.idle_timeout});

	for my $round (1, 2)
	{
		my $start = time;
		my $idle = clone(undef, $client);
		ok(goes($idle), "idle time: it is dropped, $round");
		ok(time - $start > 0.9, "idle time: not before its time, $round");
	}
	is(run($user, 'SELECT count(*) FROM t'), 100, 'idle time: an idle session in a clone keeps it');
	is(count_rows($_, user => 'regress_user'), 100, "idle time: $_ stays") for $kept, $never;
	my $start = time;
	$user->close;
	ok(goes($used), 'idle time: when the session has left it, it is dropped');
	ok(time - $start > 0.9, 'idle time: the time counts from then');
	is(run($client, 'SELECT testdb_drop_all()'), 2, 'idle time: the others can be dropped');
}
run($admin, q{ALTER ROLE regress_user RESET testdb.idle_timeout});
$node->adds_up($admin, 'expiry');

#
# A test that has failed keeps its clone from within it.
#
{
	in_database($template, 'CREATE EXTENSION testdb');
	my $name = clone(q{NULL, 'session'});
	my $user = $node->connect_to($name);
	ok($user->do(q{SELECT testdb_keep(current_database(), '1 hour')}), 'keep from within') or diag $user->told;
	is(shown($name, q{scope, expires_at > now() + interval '59 min'}), 'manual|t', 'keep from within: it is kept');
	ok($user->do(q{BEGIN; SELECT testdb_keep(current_database()::text, NULL); ROLLBACK}),
		'keep from within a transaction')
	  or diag $user->told;
	is(shown($name, 'expires_at IS NULL'), 't', 'keep from within a transaction: it is kept');
	for my $verb ('drop', 'reset')
	{
		ok(!$user->do("SELECT testdb_$verb(current_database())"), "$verb from within: refused");
		like(
			$user->told,
			qr/^55006: cannot $verb the currently open database\nConnect to another database, such as "postgres", to call testdb_$verb\.$/,
			"$verb from within: error");
	}
	is(run($user, 'SELECT count(*) FROM t'), 100, 'keep from within: the session goes on');
	$user->close;
	run($admin, "SELECT testdb_drop('$name')");
	in_database($template, 'DROP EXTENSION testdb');
}
$node->adds_up($admin, 'keep from within');

#
# testdb.log_min_duration
#
for my $limit (0, -1, '1h')
{
	run($admin, "SET testdb.log_min_duration = '$limit'");
	my $offset = -s $node->logfile;
	my $name = clone();
	my $log = slurp_file($node->logfile, $offset);
	my $line = qr/LOG:  testdb_clone: "$name" from "$template": \d+\.\d{3} ms\n/;
	$limit eq '0'
	  ? like($log, $line, 'log_min_duration: a call is logged')
	  : unlike($log, qr/testdb_clone: /, "log_min_duration = $limit: it is not");
	run($admin, "SELECT testdb_drop('$name')");
}

ok(!$node->log_contains(qr/PANIC|TRAP|signal (6|11)|could not (drop|remove|recycle)/), 'no trouble in the log');
$node->stop;
done_testing();
