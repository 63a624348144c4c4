
# What is done to a clone meanwhile, by testdb or by plain SQL: it is reset, with sessions in it or against a lock, made anew where it
# cannot be restored, renamed, given away, dropped with DROP DATABASE, and its template with it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbLife;
use TestdbTest;

set_up();

#
# Reset: sessions in the clone are ended; one in the template has to leave it.
#
for my $method ('native', 'file_copy')
{
	run($admin, "SET testdb.method = '$method'");
	my $name = clone(q{NULL, 'session', '1 hour', 'my test'});
	my $terms = 'owner, created_at, scope, session_pid, expires_at, label';
	my $before = shown($name, $terms);
	my @users = map { $node->connect_to($name) } 1 .. 3;
	run($users[0], 'BEGIN; DELETE FROM t');
	run($users[1], 'DROP TABLE IF EXISTS x; CREATE TABLE x (); PREPARE p AS SELECT 1');
	$users[2]->send('SELECT pg_sleep(600)');
	is($admin->query("SELECT testdb_reset('$name')"), '', "$method, reset with sessions: it works");
	$users[$_]->send('SELECT 1')                                                           for 0, 1;
	$_->result                                                                             for @users;
	like($_->told, qr/^(57P01|08006)/, "$method, reset with sessions: a session is ended") for @users;
	is(count_rows($name), 100, "$method, reset with sessions: content is back");
	is(in_database($name, q{SELECT to_regclass('x') IS NULL}),
		't', "$method, reset with sessions: what was added has gone");
	is(shown($name, $terms), $before, "$method, reset with sessions: terms stay");

	# The template is in use, and was changed: an error, and the clone keeps what it has.
	my $editor = $node->connect_to($template);
	run($editor, 'INSERT INTO t VALUES (0)');
	in_database($name, 'DELETE FROM t');
	run($admin, q{SET testdb.template_timeout = '100ms'});
	ok(!$admin->do("SELECT testdb_reset('$name')"), "$method, reset while the template is in use: refused");
	like(
		$admin->told,
		qr/^55006: source database "$template" is being accessed by other users/,
		"$method, reset while the template is in use: error");
	is(count_rows($name), 0, "$method, reset while the template is in use: the clone keeps its content");
	run($admin, 'RESET testdb.template_timeout');
	$admin->send("SELECT testdb_reset('$name')");
	ok(!$admin->readable(0.05), "$method, reset while the template is in use: it waits");
	run($editor, 'DELETE FROM t WHERE n = 0');
	$editor->close;
	ok(!$admin->result->{error}, "$method, reset while the template is in use: goes on when that is over");
	is(count_rows($name), 100, "$method, reset while the template is in use: content is back");
	run($admin, "SELECT testdb_drop('$name')");
}
run($admin, 'RESET testdb.method');

# A new one takes the place of a clone that can't be restored; if it can't be made, the clone stays, whatever goes wrong.
my ($file) = glob($node->data_dir . '/base/' . oid_of($admin, $template) . '/2619');
for my $method ('file_copy', 'wal_log', 'native')
{
	run($admin, "SET testdb.method = '$method'");
	# Core's copying comes without a checkpoint if nothing of the template is left in shared buffers.
	run($admin, 'CHECKPOINT');
	my $name = clone(q{NULL, 'manual', '1 hour', 'anew'});
	in_database($name, 'DELETE FROM t WHERE n > 7');
	my $oid = oid_of($admin, $name);
	my $snapshot = $node->data_dir . '/pg_testdb/snapshots/' . oid_of($admin, $template) . '/2619';
	my $terms = 'oid, name, template, owner, created_at, scope, expires_at, label';
	my $before =
	  run($admin, "SELECT $terms FROM testdb_clones JOIN pg_database ON datname = name WHERE name = '$name'");
	# What keeps a clone of ours from being restored.
	in_database($name,
		q{CREATE SUBSCRIPTION regress_sub CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE)}
	) if $method eq 'native';
	my @broken = $method eq 'native' ? $snapshot : $file;
	my %mode = map { $_ => (stat $_)[2] & 07777 } @broken;
	# Each file is open already in the process that would read it.
	for my $pid ($node->worker_pids)
	{
		run($admin, "SELECT pg_terminate_backend($pid, 10000)");
	}
	poll(sub { is_idle($admin) });
	chmod 0, @broken;
	my $done = $admin->do("SELECT testdb_reset('$name')");
	chmod $mode{$_}, $_ for @broken;
  SKIP:
	{
		skip 'files can be read whatever their mode', 3 if $done;
		like($admin->told, qr/2619"/, "$method, a new one can't be made: error");
		is(run($admin, "SELECT $terms FROM testdb_clones JOIN pg_database ON datname = name WHERE name = '$name'"),
			$before, "$method, a new one can't be made: the clone stays");
		is(count_rows($name), 7, "$method, a new one can't be made: with its content");
	}
	ok($admin->do("SELECT testdb_reset('$name')"), "$method, made anew") or diag $admin->told;
	is(count_rows($name), 100, "$method, made anew: content is back");
	isnt(oid_of($admin, $name), $oid, "$method, made anew: it is another database");
	is( shown($name, 'name, template, owner, created_at, scope, expires_at, label'),
		$before =~ s/^\d+\|//r,
		"$method, made anew: terms stay");
	ok(!-e $node->data_dir . "/base/$oid" && !-e "$leases/$oid", "$method, made anew: nothing is left of the old one");
	ok($admin->do("SELECT testdb_reset('$name')"), "$method, made anew again") or diag $admin->told;
	is( shown($name, 'created_at, expires_at'),
		run($admin, "SELECT created_at, created_at + interval '1 hour' FROM testdb_clones WHERE name = '$name'"),
		"$method, made anew again: its lifetime is not renewed");

	# What is dropped while it is made anew is gone.
	is(run($admin, "SELECT testdb_drop('$name')"), 't', "$method, made anew: it is dropped");
}
run($admin, 'RESET testdb.method');
$node->adds_up($admin, 'made anew');

# Who has a clone may have it reset only as long as the template may be cloned.
{
	my $user = $node->connect_to('postgres', user => 'regress_user');
	run($user, q{SET testdb.method = 'file_copy'});
	my $name = clone(undef, $user);
	in_database($name, 'CREATE TABLE x ()');
	run($admin, "ALTER DATABASE $template IS_TEMPLATE false");
	$user->do("SELECT testdb_reset('$name')");
	is($user->sqlstate, '42501', 'reset without the right to clone');
	run($admin, "ALTER DATABASE $template IS_TEMPLATE true");
	is(in_database($name, q{SELECT to_regclass('x') IS NULL}),
		'f', 'reset without the right to clone: nothing has changed');
	run($user, "SELECT testdb_drop('$name')");
	$user->close;
}

# A reset that is refused, because of a lock or because it is cancelled, leaves the clone to its user.
$node->set_conf('reload', 'testdb.lock_timeout' => '100ms');
run($admin, "SELECT testdb_drop(testdb_clone('$template'))") for 1 .. 4;
for my $lock_on ('its row', 'the database')
{
	my $name = clone(q{NULL, label => 'refused'});
	in_database($name, 'CREATE TABLE precious ()');
	my $lock = $node->connect_to('postgres');
	run($lock, 'BEGIN');
	run($lock,
		$lock_on eq 'its row'
		? "GRANT CONNECT ON DATABASE $name TO regress_user"
		: "ALTER DATABASE $name RENAME TO regression_x");
	ok(!$admin->do("SELECT testdb_reset('$name')"), "reset, a lock on $lock_on: refused");
	run($lock, 'ROLLBACK');
	$lock->close;
	poll(sub { is_idle($admin) });
	is(shown($name, 'state, label'), 'leased|refused', "reset, a lock on $lock_on: the clone stays");
	is(exists_now($name) && in_database($name, q{SELECT to_regclass('precious') IS NOT NULL}),
		't', "reset, a lock on $lock_on: with its content");
	$admin->do("SELECT testdb_drop('$name', true)");
}
$node->set_conf('reload', 'testdb.lock_timeout' => '60s');
$node->adds_up($admin, 'reset');

#
# Prepared transactions are rolled back: those in the clone, no others.
#
for my $call ('testdb_drop', 'testdb_reset')
{
	my $name = clone();
	my $other = clone();
	in_database($name, "BEGIN; DELETE FROM t; PREPARE TRANSACTION '$_'") for 'one';
	in_database($name, q{BEGIN; CREATE TABLE x (); PREPARE TRANSACTION 'it''s "two"'});
	in_database($other, q{BEGIN; DELETE FROM t; PREPARE TRANSACTION 'other'});
	ok($admin->do("SELECT $call('$name')"), "prepared transactions, $call: it works") or diag $admin->told;
	is(run($admin, 'SELECT gid FROM pg_prepared_xacts'), 'other', "prepared transactions, $call: its own have gone");
	is(count_rows($name), 100, 'prepared transactions: content is back') if $call eq 'testdb_reset';
	run($admin, 'SELECT testdb_drop_all()');
	is(run($admin, 'SELECT count(*) FROM pg_prepared_xacts'), 0, "prepared transactions, $call: none is left");
}

#
# Plain SQL.
#
{
	my ($renamed, $given, $kept, $dropped) = map { clone("NULL, label => '$_'") } qw(renamed given kept dropped);
	my $oid = oid_of($admin, $dropped);
	run($admin, "DROP DATABASE $dropped");
	run($admin, "ALTER DATABASE $renamed RENAME TO regression_renamed");
	is(shown($dropped, 1), '', 'DROP DATABASE: the view no longer has it');
	ok(poll(sub { !-e "$leases/$oid" }), 'DROP DATABASE: its lease goes');
	is(shown('regression_renamed', 'label'), 'renamed', 'RENAME: the view has the new name');
	is(shown($renamed, 1), '', 'RENAME: and no longer the old one');
	in_database('regression_renamed', 'DELETE FROM t');
	run($admin, q{SELECT testdb_reset('regression_renamed')});
	is(count_rows('regression_renamed'), 100, 'RENAME: it can be reset under the new name');
	run($admin, q{SELECT testdb_keep('regression_renamed', '1 second')});
	ok(goes('regression_renamed'), 'RENAME: it expires under the new name');

	# A new owner has all that the old one had, and the old one has not; a reset gives it back, as it does all the rest.
	run($admin, "ALTER DATABASE $given OWNER TO regress_user");
	my $user = $node->connect_to('postgres', user => 'regress_user');
	my $label = "SELECT owner, label, sessions FROM testdb_clones WHERE name = '$given'";
	is(run($user, $label), 'regress_user|given|0', 'OWNER TO: the new owner sees it');
	is(run($user, "SELECT testdb_keep('$given')"), '', 'OWNER TO: the new owner may keep it');
	in_database($given, 'DELETE FROM t', user => 'regress_user');
	is($user->query("SELECT testdb_reset('$given')"), '', 'OWNER TO: the new owner may reset it');
	is(shown($given, 'owner'), run($admin, 'SELECT current_user'), 'OWNER TO: a reset gives it back');
	is(count_rows($given), 100, 'OWNER TO: content is back');
	run($admin, "ALTER DATABASE $given OWNER TO regress_user");
	is(run($admin, 'SELECT testdb_drop_all()'), 1, 'OWNER TO: the old owner drops his own only');
	is(run($user, 'SELECT testdb_drop_all()'), 1, 'OWNER TO: it is among all of the new owner');
	is(run($user, 'SELECT count(*) FROM testdb_clones'), 0, 'OWNER TO: nothing is left');

	# The first owner no longer exists.
	run($admin, 'CREATE ROLE regress_gone LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone TO regress_gone');
	my $gone = $node->connect_to('postgres', user => 'regress_gone');
	my $name = clone(undef, $gone);
	$gone->close;
	run($admin, "ALTER DATABASE $name OWNER TO regress_user; DROP OWNED BY regress_gone; DROP ROLE regress_gone");
	is($user->query("SELECT testdb_reset('$name')"), '', 'the first owner was dropped: reset');
	is(shown($name, 'owner'), 'regress_user', 'the first owner was dropped: a reset leaves the owner');
	is($user->query("SELECT testdb_drop('$name')"), 't', 'the first owner was dropped: drop');
	is(run($admin, 'SELECT count(*) FROM pg_database d WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = datdba)'),
		0, 'the first owner was dropped: no database without an owner');
}
$node->adds_up($admin, 'plain SQL');

# DROP of a template that has clones: they live on, all else goes.
{
	run($admin, "CREATE DATABASE regression_short_lived TEMPLATE $template");
	my $oid = oid_of($admin, 'regression_short_lived');
	cmp_ok(run($admin, q{SELECT testdb_prewarm('regression_short_lived', 2)}),
		'>=', 2, 'DROP of a template: it has spares');
	my ($first, $second) =
	  map { run($admin, "SELECT testdb_clone('regression_short_lived', NULL, 'manual', '1 hour', '$_')") } 1, 2;
	in_database($first, 'DELETE FROM t WHERE n > 10');
	my $snapshots = sub {
		return
		  grep { m{/$oid(\.\w+)?$} && !m{/clones/} }
		  glob($node->data_dir . '/pg_testdb/* ' . $node->data_dir . '/pg_testdb/*/*');
	};
	isnt(join(' ', $snapshots->()), '', 'DROP of a template: it has a snapshot');
	ok($admin->do('DROP DATABASE regression_short_lived'), 'DROP of a template: it can be dropped')
	  or diag $admin->told;
	ok(poll(sub { !$snapshots->() }), 'DROP of a template: its snapshot goes');
	is(shown($first, 'template, label'), 'regression_short_lived|1', 'DROP of a template: the view has its last name');
	ok(!$admin->do("SELECT testdb_reset('$first')"), 'DROP of a template: no reset');
	like($admin->told, qr/^3D000: /, 'DROP of a template: error');
	is(count_rows($first), 10, 'DROP of a template: a clone keeps its content');
	run($admin, "SELECT testdb_keep('$first', NULL)");
	ok( poll(
			sub {
				is_idle($admin) && run($admin, q{SELECT count(*) FROM pg_database WHERE datname ~ 'short_lived'}) == 2;
			}),
		'DROP of a template: its spares go, its clones stay');
	is(run($admin, "SELECT testdb_drop('$first')"), 't', 'DROP of a template: a clone can be dropped');
	is(run($admin, 'SELECT testdb_drop_all()'), 1, 'DROP of a template: all can be');
	ok(poll(sub { !run($admin, q{SELECT count(*) FROM pg_database WHERE datname ~ 'short_lived'}) }),
		'DROP of a template: nothing is left');
}
$node->adds_up($admin, 'DROP of a template');

ok(!$node->log_contains(qr/PANIC|TRAP|signal (6|11)|could not (drop|remove|recycle)/), 'no trouble in the log');
$node->stop;
done_testing();
