
# testdb.end_template_sessions: who may have the sessions in a changed template terminated, which ones, and what becomes of what
# they were doing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'evict', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 2
autovacuum_naptime = 1s
testdb.template_timeout = 0
});
my $admin = $node->connect_to('postgres');

run($admin, $_)
  for 'CREATE ROLE regress_owner',
  'CREATE ROLE regress_member LOGIN IN ROLE regress_owner',
  'CREATE ROLE regress_other LOGIN',
  'CREATE ROLE regress_sitter LOGIN',
  'CREATE ROLE regress_super LOGIN SUPERUSER',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_reset, testdb_prewarm, testdb_rewind(text, boolean)
	TO regress_member, regress_other', "CREATE DATABASE $template OWNER regress_owner IS_TEMPLATE true";
{
	my $client = $node->session($template);
	run($client, $_)
	  for 'CREATE TABLE t (i int)', 'GRANT ALL ON t TO PUBLIC',
	  'CREATE TABLE big (i int) WITH (autovacuum_enabled = off)';
	$client->close;
}
my %callers = map { $_ => $node->session('postgres', user => "regress_$_") } qw(member other super);
my $rows = 0;

# Waits until nobody is in the template.
sub emptied
{
	return poll(sub { !$admin->query("SELECT count(*) FROM pg_stat_activity WHERE datname = '$template'") });
}

# How many rows a clone has that somebody asks for; or the error's code.
sub in_clone
{
	my ($caller) = @_;
	my $name = $caller->query("SELECT testdb_clone('$template')");
	return 'error ' . $caller->sqlstate unless defined $name;
	my $client = $node->session($name, user => 'regress_super');
	my $answer = run($client, 'SELECT count(*) FROM t');
	$client->close;
	run($caller, "SELECT testdb_drop('$name')");
	return $answer;
}

# Is this session still there?
sub lives
{
	my ($client) = @_;
	my $pid = $client->pid;
	return $admin->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid");
}

# The caller; its setting; who sits in the template, and what else they have done; is it ended?
for my $case (
	[ 'member', 'off', ['sitter'], undef, 0 ],
	[ 'member', 'on', ['sitter'], undef, 1 ],
	[ 'member', 'on', ['sitter'], 'BEGIN; INSERT INTO t VALUES (1)', 1 ],
	[ 'member', 'on', ['sitter'], 'BEGIN; LOCK TABLE t', 1 ],
	[ 'member', 'on', [ 'sitter', 'member', 'other' ], undef, 1 ],
	[ 'member', 'on', ['super'], undef, 0 ],
	[ 'member', 'on', ['super'], 'SET SESSION AUTHORIZATION regress_sitter', 0 ],
	[ 'member', 'on', [ 'sitter', 'super' ], undef, 0 ],
	[ 'other', 'on', ['sitter'], undef, 0 ],
	[ 'other', 'on', ['other'], undef, 0 ],
	[ 'super', 'off', ['sitter'], undef, 0 ],
	[ 'super', 'on', ['sitter'], undef, 1 ],
	[ 'super', 'on', [ 'sitter', 'super' ], undef, 1 ],
	[ 'super', 'on', ['super'], 'BEGIN; INSERT INTO t VALUES (1)', 1 ])
{
	my ($who, $setting, $sitters, $doing, $ends) = @$case;
	my $title = "$who, $setting, " . join(' and ', @$sitters) . ($doing ? ", $doing" : '');
	my $caller = $callers{$who};
	my @sessions = map { $node->session($template, user => "regress_$_") } @$sitters;

	run($sessions[0], 'INSERT INTO t VALUES (1)');
	$rows++;
	run($sessions[0], $doing) if $doing;
	run($caller, "SET testdb.end_template_sessions = $setting");
	is(in_clone($caller), $ends ? $rows : 'error 55006', "$title: the clone");
	if (!$ends)
	{
		like(
			$caller->error->{H},
			$setting eq 'on'
			? qr/^Members of the role that owns a template/
			: qr/see .* and "testdb\.end_template_sessions"/,
			"$title: the hint");
	}
	is(join(' ', map { lives($_) } @sessions), join(' ', map { $ends ? 0 : 1 } @sessions), "$title: the sessions");
	$_->close for @sessions;
	emptied();
}

# Each of those that were terminated stands in the log.
{
	my $sitter = $node->session($template, user => 'regress_sitter');
	my $pid = $sitter->pid;
	run($sitter, 'INSERT INTO t VALUES (1)');
	my $at = -s $node->logfile;
	is(in_clone($callers{super}), ++$rows, 'a clone after the end of a session');
	my $log = slurp_file($node->logfile, $at);
	like(
		$log,
		qr/LOG:  terminating process $pid of user "regress_sitter", which is connected to template database "$template"/,
		'which the log tells');
	is(() = $log =~ /LOG:  terminating process/g, 1, 'once');
	like($log, qr/HINT:  See "testdb\.end_template_sessions"/, 'with the reason');
}

# A prepared transaction can't be ended, so no session is.
{
	my $sitter = $node->session($template, user => 'regress_sitter');
	run($sitter, $_) for 'BEGIN', 'INSERT INTO t VALUES (1)', q{PREPARE TRANSACTION 'p'};
	is(in_clone($callers{super}), 'error 55006', 'a prepared transaction is in the way');
	ok(lives($sitter), 'and no session is terminated for nothing');
	run($sitter, q{COMMIT PREPARED 'p'});
	is(in_clone($callers{super}), ++$rows, 'it is when the transaction is over');
	ok(!lives($sitter), 'and is gone');
}

# What waits for the template in other ways.
{
	my $super = $callers{super};
	my $name = run($super, "SELECT testdb_clone('$template')");
	for my $call ("testdb_prewarm('$template', 0)", "testdb_reset('$name')", "testdb_rewind('$name')")
	{
		my $sitter = $node->session($template, user => 'regress_sitter');
		run($sitter, 'INSERT INTO t VALUES (1)');
		$rows++;
		ok($super->do("SELECT $call"), $call) or diag($super->message);
		next if $call =~ /prewarm/;
		ok(!lives($sitter), "$call: the session");
		my $client = $node->session($name);
		is(run($client, 'SELECT count(*) FROM t'), $rows, "$call: the content");
		$client->close;
	}
	run($super, "SELECT testdb_drop('$name')");
	emptied();
}

# CREATE DATABASE terminates nobody.
{
	my $sitter = $node->session($template, user => 'regress_sitter');
	run($sitter, 'INSERT INTO t VALUES (1)');
	$rows++;
	$callers{super}->do("CREATE DATABASE regression_served TEMPLATE $template");
	is($callers{super}->sqlstate, '55006', 'CREATE DATABASE');
	ok(lives($sitter), 'terminates nobody');
	$sitter->close;
	emptied();
}

# A client that comes back again and again, as a pool does.
{
	my $end = time + 2;
	my $pool = fork // die "fork: $!";
	if (!$pool)
	{
		while (time < $end)
		{
			my $client = $node->connect_to($template, user => 'regress_sitter');
			$client->query('INSERT INTO t VALUES (1)') unless $client->error;
			$client->readable(1) if $client->is_open;
		}
		require POSIX;
		POSIX::_exit(0);
	}
	my ($good, $bad) = (0, 0);
	while (time < $end)
	{
		my $answer = in_clone($callers{super});
		$answer =~ /^\d+$/ ? $good++ : $bad++;
		$answer =~ /^(\d+|error 55006)$/ or fail("a pool: $answer");
	}
	waitpid $pool, 0;
	emptied();
	cmp_ok($good, '>', $bad, "clones beside a pool in the template ($good, and $bad errors)");
	$rows = in_clone($callers{super});
	like($rows, qr/^\d+$/, 'and afterwards');
}

# Autovacuum makes way whether it is on or off.
{
	my $client = $node->session($template);
	run($client, $_)
	  for 'INSERT INTO big SELECT generate_series(1, 200000)', 'DELETE FROM big',
	  'ALTER TABLE big SET (autovacuum_enabled = on, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)';
	$client->close;
	emptied();
	run($admin, $_) for 'ALTER SYSTEM SET autovacuum = on', 'SELECT pg_reload_conf()';
	my $worker = "backend_type = 'autovacuum worker' AND datname = '$template' AND query LIKE '%big%'";
	ok(poll(sub { $admin->query("SELECT count(*) FROM pg_stat_activity WHERE $worker") }),
		'autovacuum is in the template');
	run($callers{member}, $_) for 'SET testdb.end_template_sessions = on', q{SET testdb.template_timeout = '5s'};
	is(in_clone($callers{member}), $rows, 'and is told to go, also for who is no superuser');
}

$node->stop;
done_testing();
