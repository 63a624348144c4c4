
# What a restart and a crash leave of a clone: its content and its terms; and of all else that testdb made, nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbLife;
use TestdbTest;

set_up();

#
# Restart and crash: what is handed out lives on, on its terms; spares, session scope and what was left behind don't.
#
for my $how ('restart', 'kill -9 of the server', 'kill -9 of a session')
{
	$admin = $node->reconnect;
	my $client = $node->connect_to('postgres', user => 'regress_user');
	my $plain = clone(q{'regression_plain', label => repeat('x', 200)}, $client);
	my $timed = clone(q{NULL, 'manual', '1 hour', 'timed'}, $client);
	my $session = clone(q{NULL, 'session', '1 hour', 'session'}, $client);
	my $kept = clone(q{NULL, 'session', label => 'kept'}, $client);
	run($client, "SELECT testdb_keep('$kept', '2 hours')");
	in_database($_, 'DELETE FROM t WHERE n > 7; CHECKPOINT') for $plain, $timed, $kept;
	cmp_ok(run($admin, "SELECT testdb_prewarm('$template', 4)"), '>=', 4, "$how: there are spares");
	my $terms = q{
		SELECT name, template, owner, created_at, scope, session_pid, expires_at, label FROM testdb_clones
		WHERE scope = 'manual' AND label IS NOT NULL ORDER BY name};
	my $before = run($admin, $terms);
	# Its time must not end before the server's.
	run($client, q{SET testdb.idle_timeout = '3s'});
	my $idle = clone(undef, $client);
	my @spares = split /\n/,
	  run($admin, q{SELECT d.datname FROM testdb_clones() c JOIN pg_database d USING (oid) WHERE c.state = 'spare'});
	is(($before =~ tr/\n//) + 1, 3, "$how: there are clones");
	ok(@spares >= 3, "$how: there are spare databases");
	my $offset = -s $node->logfile;
	my $pid = $client->pid;
	if    ($how eq 'restart') { $node->restart }
	elsif ($how eq 'kill -9 of a session')
	{
		kill 'KILL', $pid;
		$client->result;
		$admin->send('SELECT 1');
		$admin->result;
	}
	else
	{
		$node->kill_server;
		$node->start_again;
	}
	$admin = $node->reconnect;
	is(run($admin, $terms), $before, "$how: clones are what they were");
	is(join(' ', map { count_rows($_) } $plain, $timed, $kept), '7 7 7', "$how: they have their content");
	ok(goes($session), "$how: session scope ends");
	is(join(' ', grep { !goes($_) } @spares), '', "$how: spares are removed");
	like(
		slurp_file($node->logfile, $offset),
		qr/LOG:  testdb found 4 databases that it created earlier\n.*DETAIL:  There (is|are) \d+ leftovers? to be removed/,
		"$how: the log says so");
	cmp_ok(run($admin, "SELECT testdb_prewarm('$template', 2)"), '>=', 2, "$how: spares can be made again");
	is(run($node->connect_to('postgres', user => 'regress_user'), "SELECT testdb_reset('$plain')"),
		'', "$how: a clone can be reset");
	is(count_rows($plain), 100, "$how: content is back");
	is(shown($plain, 'owner, length(label)'), 'regress_user|200', "$how: terms stay");
	ok(goes($idle), "$how: idle time goes on");
	is(in_database('postgres', 'SELECT testdb_drop_all()', user => 'regress_user'), 3, "$how: all can be dropped");
	$node->adds_up($admin, $how);
}

# Left behind: a lease without a database, a directory without a row, a row that is marked invalid.
{
	my %oids = map { $_ => oid_of($admin, clone("'regression_$_'")) } qw(lease directory row good);
	$admin->close;
	$node->set_conf('restart', shared_preload_libraries => '');
	$admin = $node->reconnect;
	run($admin, 'DROP DATABASE regression_lease');
	run($admin, "DELETE FROM pg_database WHERE oid = $oids{directory}");
	run($admin, "UPDATE pg_database SET datconnlimit = -2 WHERE oid = $oids{row}");
	my $base = $node->data_dir . '/base';
	ok(-d "$base/$oids{directory}", 'left behind: there is a directory');
	ok(-e "$leases/$oids{lease}", 'left behind: there is a lease');
	$admin->close;
	my $offset = -s $node->logfile;
	$node->set_conf('restart', shared_preload_libraries => 'testdb');
	$admin = $node->reconnect;

	for my $kind (qw(lease directory row))
	{
		ok(poll(sub { !-e "$leases/$oids{$kind}" && !-e "$base/$oids{$kind}" && !exists_now("regression_$kind") }),
			"left behind, $kind: removed");
	}
	is(count_rows('regression_good'), 100, 'left behind: a good one is not touched');
	my $log = slurp_file($node->logfile, $offset);
	like(
		$log,
		qr/LOG:  testdb found 1 database that it created earlier\n.*DETAIL:  There (is|are) \d+ leftovers? to be removed/,
		'left behind: the log has the numbers');
	like(
		$log,
		qr/LOG:  removed directory "base\/$oids{directory}" of an incompletely created database/,
		'left behind: the log names the directory');
	is(run($admin, 'SELECT testdb_drop_all()'), 1, 'left behind: the good one can be dropped');
}
$node->adds_up($admin, 'left behind');

ok(!$node->log_contains(qr/PANIC|TRAP|signal (6|11)|could not (drop|remove|recycle)/), 'no trouble in the log');
$node->stop;
done_testing();
