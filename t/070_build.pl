
# Templates that are built once: one of those who come together builds, the others wait and get what it has built, or its
# work if it ends.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Encode qw(decode);
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node =
  TestdbCluster->new_server('build', "testdb.spares = 2\nmax_prepared_transactions = 2\nmax_worker_processes = 16");
my $admin = $node->session('postgres');
run($admin, $_)
  for 'CREATE ROLE regress_builder LOGIN', 'CREATE ROLE regress_other LOGIN', 'CREATE ROLE regress_nobody LOGIN',
  'GRANT EXECUTE ON FUNCTION testdb_template_begin, testdb_template_finish, testdb_template_cancel, testdb_template_drop,
	testdb_clone, testdb_drop TO regress_builder, regress_other';

sub begin_sql
{
	my ($name, $fingerprint, $base) = @_;
	return "SELECT * FROM testdb_template_begin('$name', '$fingerprint'" . ($base ? ", '$base'" : '') . ')';
}

# A session that has begun to build; with the name of its database.
sub builder
{
	my ($name, $fingerprint, %args) = @_;
	my $client = $node->session('postgres', name => "builds $name", %args);
	my ($row) = $client->rows(begin_sql($name, $fingerprint, $args{base}));
	die $client->told if $client->error;
	is($row->[1], 't', "$name $fingerprint: this session is to build it");
	return ($client, $row->[0]);
}

# Builds something in a database.
sub fill
{
	my ($db, %args) = @_;
	my $client = $node->session($db, %args);
	run($client, 'CREATE TABLE IF NOT EXISTS built AS SELECT generate_series(1, 1000) AS i');
	$client->close;
	return;
}

# A whole one; the name of its database.
sub build
{
	my ($name, $fingerprint, %args) = @_;
	my ($client, $db) = builder($name, $fingerprint, %args);
	fill($db, %args);
	run($client, "SELECT testdb_template_finish('$db')");
	$client->close;
	return $db;
}

# Sessions that wait for a builder.
sub waiters
{
	my ($n, $name, $fingerprint, %args) = @_;
	my @clients = map { $node->session('postgres', name => "waits $_", %args) } 1 .. $n;
	$_->send(begin_sql($name, $fingerprint)) for @clients;
	for my $client (@clients)
	{
		poll(
			sub {
				run($admin, 'SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $client->pid) =~
				  /^(Extension|IPC)$/;
			}) or die 'does not wait';
	}
	return @clients;
}

# What is in the view, without times.
sub state_of
{
	my ($name) = @_;
	return run($admin,
		"SELECT fingerprint, state, database IS NOT NULL, base, builder IS NOT NULL, built_at <= used_at FROM testdb_builds WHERE name = '$name' ORDER BY fingerprint, state"
	);
}

sub databases { my ($like) = @_; return run($admin, "SELECT count(*) FROM pg_database WHERE datname LIKE '$like'") }

# Four come together.
{
	my ($first, $db) = builder('regression_app', 'f1');
	my @others = waiters(3, 'regression_app', 'f1');
	is(state_of('regression_app'), 'f1|building|t|template1|t|', 'it is shown as being built');
	is(run($admin, "SELECT builder = " . $first->pid . " FROM testdb_builds"), 't', 'and by whom');
	ok(!grep({ $_->readable(0) } @others), 'three wait');
	fill($db);
	my $lingering = $node->session($db);
	run($first, q{SET testdb.template_timeout = '10ms'});
	ok(!$first->do("SELECT testdb_template_finish('$db')"), 'it is not finished while somebody is in it');
	my $pid = $lingering->pid;
	like($first->told, qr/^55006: template "$db" is being accessed by other users\nProcess $pid of user/,
		'and said so');
	$lingering->close;
	ok($node->has_ended($pid), 'who was in it has left');
	run($first, "SELECT testdb_template_finish('$db')");

	for my $other (@others)
	{
		is_deeply($other->result->{rows}, [ [ $db, 'f' ] ], 'one that waited gets it, and has nothing to build');
	}
	is(state_of('regression_app'), 'f1|ready|t|template1|f|t', 'it is shown as ready');
	is(run($admin, "SELECT datistemplate, datallowconn FROM pg_database WHERE datname = '$db'"), 't|f', 'it is sealed');
	is(run($admin, 'SELECT count(*) FROM testdb_clones'), 0, 'it is no clone that somebody has');
	is(run($admin, "SELECT spares >= 2 FROM testdb_templates WHERE name = '$db'"), 't', 'spares are ready');
	my $clone = run($first, "SELECT testdb_clone('$db')");
	is(run($admin, "SELECT hits FROM testdb_stats WHERE name = '$db'"), 1, 'so the first clone is one of them');
	my $inside = $node->session($clone);
	is(run($inside, 'SELECT count(*) FROM built'), 1000, 'it has what was built');
	is(run($inside, q{SELECT reltuples FROM pg_class WHERE relname = 'built'}), 1000, 'it has been analyzed');
	is(run($inside, q{SELECT bool_and(relallvisible = relpages) FROM pg_class WHERE relname = 'built'}),
		't', 'and vacuumed');
	is(run($inside, q{SELECT age(relfrozenxid) < 200 FROM pg_class WHERE relname = 'pg_class'}), 't', 'and frozen');
	$inside->close;
	ok(!$first->do("SELECT $_"), "$_: refused")
	  && like($first->told, qr/^42809: database "$db" is a template/, 'and said so')
	  for "testdb_keep('$db')", "testdb_reset('$db')", "testdb_rewind('$db')";
	is(run($first, 'SELECT testdb_drop_all()'), 1, 'testdb_drop_all drops the clone, and not the template');
	is(run($first, "SELECT testdb_template_drop('regression_app', 'f1')"), 1, 'it is dropped');
	is(run($first, "SELECT testdb_template_drop('regression_app', 'f1')"), 0, 'which happens once');
	is(state_of('regression_app'), '', 'nothing is shown');
	$_->close for @others, $first;
	ok(poll(sub { databases('regression_app%') == 0 }), 'its spares go, too')
	  or diag run($admin, q{SELECT string_agg(c::text, E'\n') FROM testdb_clones() c});
}

# The builder goes, in several ways: the next who waits builds.
my %ends = (
	'disconnects' => sub { $_[0]->close },
	'vanishes' => sub { $_[0]->vanish },
	'is terminated' => sub { run($admin, 'SELECT pg_terminate_backend(' . $_[0]->pid . ')') },
	'cancels' => sub { run($_[0], "SELECT testdb_template_cancel('$_[1]')") },
	'has its database dropped, and cancels' =>
	  sub { run($admin, "SELECT testdb_drop('$_[1]')"); run($_[0], "SELECT testdb_template_cancel('$_[1]')") });
for my $how (sort keys %ends)
{
	my ($first, $db) = builder('regression_left', $how);
	fill($db);
	my @others = waiters(2, 'regression_left', $how);
	$ends{$how}->($first, $db);
	poll(
		sub {
			grep { $_->readable(0) } @others;
		});
	my ($next) = grep { $_->readable(0) } @others;
	my ($last) = grep { $_ != $next } @others;
	my ($row) = @{ $next->result->{rows} };
	is($row->[1], 't', "$how: one of those who wait is to build it");
	poll(sub { databases('regression_left%') == 1 });
	is(databases('regression_left%'), 1, "$how: the half-made database goes");
	my $inside = $node->session($row->[0]);
	is(run($inside, q{SELECT to_regclass('built') IS NULL}), 't', "$how: and is not what it gets");
	$inside->close;
	ok(!$last->readable(0), "$how: the other still waits");
	run($next, "SELECT testdb_template_finish('$row->[0]')");
	is_deeply($last->result->{rows}, [ [ $row->[0], 'f' ] ], "$how: and gets it then");
	$_->close for @others, $first;
	run($admin, q{SELECT testdb_template_drop('regression_left')});
}

# Waiting ends, too.
{
	my ($first, $db) = builder('regression_wait', 'f');
	my ($waiter) = waiters(1, 'regression_wait', 'f');
	run($admin, 'SELECT pg_cancel_backend(' . $waiter->pid . ')');
	like($waiter->result->{error}{C}, qr/^57014/, 'who waits can be cancelled');
	run($waiter, q{SET testdb.timeout = '50ms'});
	ok(!$waiter->do(begin_sql('regression_wait', 'f')), 'it waits testdb.timeout at most');
	my $pid = $first->pid;
	like(
		$waiter->told,
		qr/^55006: template "regression_wait" is being built\nProcess $pid of user ".*" \(application "builds regression_wait"\) has been building it since \d/,
		'and is told who builds');
	ok(!$first->do(begin_sql('regression_wait', 'f')), 'the builder itself does not wait');
	like($first->told, qr/^55006: .*That is this session/s, 'and is told why');
	ok(!$waiter->do(q{SELECT testdb_template_drop('regression_wait', 'f')}), 'what is being built is not dropped');
	like($waiter->told, qr/^55006: template "regression_wait" is being built/, 'and said so');
	is(run($waiter, q{SELECT testdb_template_drop('regression_wait')}), 0, 'nor with all of that name');
	my ($beside, $other) = builder('regression_wait', 'g');
	isnt($other, $db, 'another fingerprint is built beside it');
	my ($third, $same) = builder('regression_other', 'f');
	isnt($same, $db, 'and the same fingerprint of another name');

	# A transaction that fails, or DISCARD ALL, is not the end of the session.
	run($first, 'BEGIN');
	$first->do('SELECT 1 / 0');
	run($first, 'ROLLBACK');
	run($first, 'DISCARD ALL');
	$waiter->do(begin_sql('regression_wait', 'f'));
	like($waiter->told, qr/^55006/, 'a failed transaction and DISCARD ALL leave the work to the builder');
	# Another session of the same role may finish it.
	run($beside, "SELECT testdb_template_finish('$db')");
	is(run($waiter, begin_sql('regression_wait', 'f')), "$db|f", 'any session of the role can finish it');
	ok(!$first->do("SELECT testdb_template_$_('$db')"), "$_: it can't be finished or cancelled any more")
	  && like($first->told, qr/^55000: template "$db" is finished/, 'and said so')
	  for qw(finish cancel);
	$_->close for $first, $beside, $third, $waiter;
}

# What can't be finished.
{
	my ($first, $db) = builder('regression_busy', 'f');
	my $inside = $node->session($db);
	run($inside, $_)
	  for 'CREATE TABLE t (i int)', 'BEGIN', 'INSERT INTO t VALUES (1)', q{PREPARE TRANSACTION 'regression'};
	run($first, q{SET testdb.template_timeout = '10ms'});
	$inside->close;
	$node->has_ended($inside->pid);
	ok(!$first->do("SELECT testdb_template_finish('$db')"), 'a prepared transaction is in the way');
	like($first->told, qr/^55006: .*There is 1 prepared transaction/s, 'and said so');
	$inside = $node->session($db);
	run($inside, q{COMMIT PREPARED 'regression'});
	run($first, 'SET testdb.end_template_sessions = on');
	ok($first->do("SELECT testdb_template_finish('$db')"), 'sessions are terminated if that is wanted')
	  or diag $first->told;
	$inside->close;
	my $own = $node->session('postgres');
	my $name = run($own, q{SELECT testdb_clone('template1', 'regression_plain')});

	for my $case (
		[ 'postgres', qr/^42809: database "postgres" was not created by testdb/ ],
		[ 'regression_plain', qr/^42809: database "regression_plain" was not created by testdb_template_begin/ ],
		[ 'regression_missing', qr/^3D000: database "regression_missing" does not exist/ ])
	{
		for my $function (qw(finish cancel))
		{
			$own->do("SELECT testdb_template_$function('$case->[0]')");
			like($own->told, $case->[1], "$function $case->[0]: refused");
		}
	}
	run($own, q{SELECT testdb_drop('regression_plain')});
	$_->close for $own, $first;
}

# Arguments.
for my $case (
	[ q{NULL, 'f'}, qr/^22004: template name must not be null/ ],
	[ q{'', 'f'}, qr/^42602: template name must not be empty/ ],
	[ q{repeat('x', 64), 'f'}, qr/^42602: template name is too long/ ],
	[ q{'regression', NULL}, qr/^22004: fingerprint must not be null/ ],
	[ q{'regression', ''}, qr/^22023: fingerprint must not be empty/ ],
	[ q{'regression', repeat('x', 201)}, qr/^22001: fingerprint is too long/ ],
	[ q{'regression', 'f', 'regression_missing'}, qr/^3D000: template database "regression_missing" does not exist/ ],
	[ q{'regression', 'f', ''}, qr/^42602: base name must not be empty/ ])
{
	$admin->do("SELECT testdb_template_begin($case->[0])");
	like($admin->told, $case->[1], "begin($case->[0]): refused");
}
is(run($admin, q{SELECT count(*) FROM testdb_builds WHERE state = 'building'}), 0, 'and nothing is claimed then');

# Names.
for my $case ([ 'ä' x 31, 200 ], [ 'x' x 63, 1 ], [ 'a"b$;--', 10 ], [ '日本' x 10, 3 ], [ 'regression', 200 ])
{
	my ($name, $length) = @$case;
	my $client = $node->session('postgres');
	my $row = $client->query(
		"SELECT database, build, octet_length(database::text), starts_with('$name', left(database::text, -9)) FROM testdb_template_begin('$name', repeat('f', $length))"
	);
	my ($db, $build, $bytes, $starts) = split /\|/, $row;
	is("$build|$starts", 't|t', "$name: its database is called after it");
	cmp_ok($bytes, '<=', 63, "$name: in at most 63 bytes");
	ok(eval { decode('UTF-8', my $copy = $db, Encode::FB_CROAK); 1 }, "$name: cut between characters");
	run($client, "SELECT testdb_template_finish(\$\$$db\$\$)");
	is(run($client, "SELECT database, build FROM testdb_template_begin('$name', repeat('f', $length))"),
		"$db|f", "$name: it is found again");
	is(run($client, "SELECT testdb_template_drop('$name')"), 1, "$name: and dropped");
	$client->close;
}

# Layers.
{
	my $schema = build('regression_schema', 'f');
	my ($client, $db) = builder('regression_data', 'f', base => $schema);
	my $inside = $node->session($db);
	is(run($inside, 'SELECT count(*) FROM built'), 1000, 'a layer has what its base has');
	run($inside, 'DELETE FROM built WHERE i > 10');
	$inside->close;
	run($client, "SELECT testdb_template_finish('$db')");
	is(state_of('regression_data'), "f|ready|t|$schema|f|t", 'and says what that is');
	$inside = $node->session(my $clone = run($client, "SELECT testdb_clone('$db')"));
	is(run($inside, 'SELECT count(*) FROM built'), 10, 'and what was added to it');
	$inside->close;
	run($client, "SELECT testdb_drop('$clone')");
	$client->close;
}

# Rights.
{
	my $db = build('regression_rights', 'f', user => 'regress_builder');
	is(run($admin, q{SELECT owner FROM testdb_builds WHERE name = 'regression_rights'}),
		'regress_builder', 'it is the builder\'s');
	my $other = $node->session('postgres', user => 'regress_other');
	is(run($other, begin_sql('regression_rights', 'f')), "$db|f", 'others get the same');
	my $clone = run($other, "SELECT testdb_clone('$db')");
	is(run($admin, "SELECT datdba::regrole FROM pg_database WHERE datname = '$clone'"), 'regress_other',
		'and clone it');
	run($other, "SELECT testdb_drop('$clone')");
	ok(!$other->do(q{SELECT testdb_template_drop('regression_rights', 'f')}), 'but do not drop it');
	like($other->told, qr/^42501: must be owner of database $db/, 'and are told so');
	is(run($other, q{SELECT testdb_template_drop('regression_rights')}), 0, 'nor with all');
	run($admin, "ALTER DATABASE $db IS_TEMPLATE false");
	ok(!$other->do(begin_sql('regression_rights', 'f')), 'who may not clone it does not get it');
	like($other->told, qr/^42501: permission denied to clone database/, 'and is told so');
	my ($builder, $half) = builder('regression_rights', 'g', user => 'regress_builder');
	ok(!$other->do("SELECT testdb_template_$_('$half')"), "$_: only for who builds it")
	  && like($other->told, qr/^42501: must be owner/, 'and said so')
	  for qw(finish cancel);
	my $nobody = $node->session('postgres', user => 'regress_nobody');
	ok(!$nobody->do("SELECT $_"), "$_: not for everybody") && like($nobody->told, qr/^42501/, 'and said so')
	  for q{testdb_template_begin('x', 'y')}, q{testdb_template_finish('x')}, q{testdb_template_cancel('x')},
	  q{testdb_template_drop('x')};
	is(run($builder, q{SELECT testdb_template_drop('regression_rights')}), 1, 'its owner drops it, template or not');
	$_->close for $builder, $other, $nobody;
}

# Old ones give way.
{
	my @dbs = map { build('regression_kept', "f$_") } 1 .. 3;
	my $client = $node->session('postgres');
	my $clone = run($client, "SELECT testdb_clone('$dbs[1]')");
	run($client, begin_sql('regression_kept', 'f1'));

	# Who is in it, as autovacuum is, does not use it.
	my $used_at = "SELECT used_at FROM testdb_builds WHERE database = '$dbs[2]'";
	my $before = run($admin, $used_at);
	run($admin, "ALTER DATABASE $dbs[2] ALLOW_CONNECTIONS true");
	my $inside = $node->session($dbs[2]);
	run($inside, 'SELECT count(*) FROM built');
	$inside->close;
	$node->has_ended($inside->pid);
	run($admin, "ALTER DATABASE $dbs[2] ALLOW_CONNECTIONS false");
	is(run($admin, $used_at), $before, 'a session in a template is no use of it');
	my $position = -s $node->logfile;
	build('regression_kept', $_) for 'f4', 'f5';
	is( run($admin,
			q{SELECT string_agg(fingerprint, ' ' ORDER BY fingerprint) FROM testdb_builds WHERE name = 'regression_kept'}
		),
		'f1 f2 f4 f5',
		'more than three stay only where there are clones');
	like(
		slurp_file($node->logfile, $position),
		qr/dropped template "$dbs[2]", which was the least recently used/,
		'the log says what has gone');
	build('regression_kept', 'f6', user => 'regress_other');
	is(run($admin, q{SELECT count(*) FROM testdb_builds WHERE name = 'regression_kept'}),
		5, 'nobody drops those of others');
	run($client, "SELECT testdb_drop('$clone')");
	build('regression_kept', "g$_") for 1 .. 4;
	is( run($admin,
			q{SELECT string_agg(fingerprint, ' ' ORDER BY fingerprint) FROM testdb_builds WHERE name = 'regression_kept'}
		),
		'f6 g2 g3 g4',
		'never more');
	my $orphans = q{SELECT c.state, d.datname FROM testdb_clones() c JOIN pg_database d USING (oid)
		WHERE c.template_oid NOT IN (SELECT oid FROM pg_database)};
	poll(sub { run($admin, $orphans) eq '' });
	is(run($admin, $orphans), '', 'and their spares go with them');
	$client->close;
}

# The server crashes: what is finished stays, what is not goes.
{
	my $ready = build('regression_crash', 'f');
	my ($client, $half) = builder('regression_crash', 'g');
	fill($half);
	run($admin, 'CHECKPOINT');
	$node->kill_server;
	$node->start_again;
	$admin = $node->session('postgres');
	is(state_of('regression_crash'), 'f|ready|t|template1|f|t', 'after a crash, what was finished is there');
	poll(sub { run($admin, "SELECT count(*) FROM pg_database WHERE datname = '$half'") == 0 });
	is(run($admin, "SELECT count(*) FROM pg_database WHERE datname = '$half'"), 0, 'and what was not is gone');
	$client = $node->session('postgres');
	is(run($client, begin_sql('regression_crash', 'f')), "$ready|f", 'it need not be built again');
	my $inside = $node->session(my $clone = run($client, "SELECT testdb_clone('$ready')"));
	is(run($inside, 'SELECT count(*) FROM built'), 1000, 'and can be cloned');
	$inside->close;
	$client->close;
}

$node->stop;
done_testing();
