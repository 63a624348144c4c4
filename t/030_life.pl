
# The life of a clone: how long it lasts, what ends it, what is done to it meanwhile, by testdb or by plain SQL, and what a
# restart leaves of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use POSIX qw(mkfifo O_NONBLOCK O_RDONLY);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbHold;
use TestdbTest;
use Time::HiRes qw(time);

my $template = 'regression_template';
my $node = new_server(
	'main', q{
max_prepared_transactions = 5
restart_after_crash = on
testdb.lock_timeout = 60s
});
my $leases = $node->data_dir . '/pg_testdb/clones';
my $admin = connect_to($node, 'postgres');
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_user LOGIN', 'CREATE ROLE regress_other LOGIN',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_reset, testdb_keep, testdb_prewarm
	TO regress_user, regress_other';
in_database($template, 'CREATE TABLE t AS SELECT generate_series(1, 100) AS n; GRANT ALL ON t TO PUBLIC');

# Runs a statement in a session of its own in a database; what it returned.
sub in_database
{
	my ($db, $sql, %args) = @_;
	my $client = connect_to($node, $db, %args);
	die "$db: " . told($client) if $client->error;
	my $result = run($client, $sql);
	$client->close;
	return $result;
}

# A new session, as soon as the server takes one.
sub reconnect
{
	my $client;
	poll(sub { $client = connect_to($node, 'postgres'); !$client->error }) or die told($client);
	return $client;
}

# Makes a clone in a session, by default the administrator's; its name.
sub clone
{
	my ($terms, $client) = @_;
	return run($client || $admin, "SELECT testdb_clone('$template'" . ($terms ? ", $terms" : '') . ')');
}

# Is there a database of that name?
sub exists_now
{
	my ($name) = @_;
	return run($admin, "SELECT count(*) FROM pg_database WHERE datname = '$name'");
}

# Waits until a clone has gone; false if it stays.
sub goes
{
	my ($name, $seconds) = @_;
	return poll(sub { !exists_now($name) && !run($admin, "SELECT count(*) FROM testdb_clones WHERE name = '$name'") },
		$seconds || 5);
}

# A column of the view.
sub shown
{
	my ($name, $columns) = @_;
	return run($admin, "SELECT $columns FROM testdb_clones WHERE name = '$name'");
}

sub count_rows
{
	my ($name, %args) = @_;
	return in_database($name, 'SELECT count(*) FROM t', %args);
}

# What is handed out, on disk and in the view: each lease has a database that is known, and the other way round.
sub adds_up
{
	my ($title) = @_;
	my ($disk, $known) = ('', '-');
	poll(
		sub {
			return 0 unless is_idle($admin);
			$disk = join ' ', sort { $a <=> $b } map { m{/(\d+)$} } glob("$leases/*");
			$known = join ' ', sort { $a <=> $b } split /\n/,
			  run($admin, 'SELECT oid FROM testdb_clones() WHERE oid IN (SELECT oid FROM pg_database)');
			return $disk eq $known;
		},
		5);
	return is($disk, $known, "$title: leases and databases add up");
}

#
# Session scope: the end of the session, whatever it is, is the end of its clones, and of no others.
#
my %ends = (
	'disconnect' => sub { $_[0]->close },
	'a lost connection' => sub { vanish($_[0]) },
	'pg_terminate_backend' => sub { run($admin, 'SELECT pg_terminate_backend(' . $_[0]->pid . ')') });
for my $end (sort keys %ends)
{
	my $client = connect_to($node, 'postgres');
	my $bystander = connect_to($node, 'postgres');
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
	my $client = connect_to($node, 'postgres');
	my $used = clone(q{NULL, 'session'}, $client);
	my $renamed = clone(q{NULL, 'session'}, $client);
	my $gone = clone(q{NULL, 'session'}, $client);
	run($admin, "ALTER DATABASE $renamed RENAME TO regression_renamed");
	run($admin, "DROP DATABASE $gone");
	my $user = connect_to($node, $used, name => 'the user');
	my $offset = -s $node->logfile;
	$client->close;
	ok(goes($_), "session scope: $_ goes") for $used, 'regression_renamed';
	$user->do('SELECT 1');
	like(told($user), qr/^(57P01|08006)/, 'session scope: a session in it is ended');
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
	my $client = connect_to($node, 'postgres');
	my $name = clone(q{NULL, 'session'}, $client);
	my $caller = $who eq 'another session' ? connect_to($node, 'postgres') : $client;
	my $lock = connect_to($node, 'postgres');

	# What has been changed must be written, for which it is locked.
	run($lock, "ALTER DATABASE $name CONNECTION LIMIT 50");
	run($lock, "BEGIN; GRANT CONNECT ON DATABASE $name TO regress_user");
	$caller->send("SELECT testdb_reset('$name')");
	wait_held($node, 1);
	run($admin, 'SELECT pg_terminate_backend(' . $client->pid . ', 10000)');
	run($lock, 'ROLLBACK');
	$_->close for $lock, $client;
	$caller->result if $caller != $client;
	ok(goes($name), "session scope, it ends during a reset by $who: the clone is dropped")
	  or run($admin, "SELECT testdb_drop('$name', true)");
}
adds_up('session scope');

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
	my $user = connect_to($node, $used);
	run($user, 'BEGIN; DELETE FROM t');
	my $offset = -s $node->logfile;
	ok(goes($short), 'lifetime: it is dropped');
	ok(time - $start > 0.9, 'lifetime: not before its time');
	ok(goes($_), "lifetime: $_ is dropped, too") for $default, $used;
	$user->do('SELECT 1');
	like(told($user), qr/^(57P01|08006)/, 'lifetime: a session in it is ended');
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
	my $client = connect_to($node, 'postgres', user => 'regress_user');
	my $used = clone(undef, $client);
	my $kept = clone(undef, $client);
	run($client, "SELECT testdb_keep('$kept')");
	run($client, q{SET testdb.idle_timeout = 0});
	my $never = clone(undef, $client);
	run($client, q{RESET testdb.idle_timeout});
	my $user = connect_to($node, $used, user => 'regress_user');

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
adds_up('expiry');

#
# Reset: sessions in the clone are ended; one in the template has to leave it.
#
for my $method ('native', 'file_copy')
{
	run($admin, "SET testdb.method = '$method'");
	my $name = clone(q{NULL, 'session', '1 hour', 'my test'});
	my $terms = 'owner, created_at, scope, session_pid, expires_at, label';
	my $before = shown($name, $terms);
	my @users = map { connect_to($node, $name) } 1 .. 3;
	run($users[0], 'BEGIN; DELETE FROM t');
	run($users[1], 'DROP TABLE IF EXISTS x; CREATE TABLE x (); PREPARE p AS SELECT 1');
	$users[2]->send('SELECT pg_sleep(600)');
	is($admin->query("SELECT testdb_reset('$name')"), '', "$method, reset with sessions: it works");
	$users[$_]->send('SELECT 1')                                                           for 0, 1;
	$_->result                                                                             for @users;
	like(told($_), qr/^(57P01|08006)/, "$method, reset with sessions: a session is ended") for @users;
	is(count_rows($name), 100, "$method, reset with sessions: content is back");
	is(in_database($name, q{SELECT to_regclass('x') IS NULL}),
		't', "$method, reset with sessions: what was added has gone");
	is(shown($name, $terms), $before, "$method, reset with sessions: terms stay");

	# The template is in use, and was changed: an error, and the clone keeps what it has.
	my $editor = connect_to($node, $template);
	run($editor, 'INSERT INTO t VALUES (0)');
	in_database($name, 'DELETE FROM t');
	run($admin, q{SET testdb.template_timeout = '100ms'});
	ok(!$admin->do("SELECT testdb_reset('$name')"), "$method, reset while the template is in use: refused");
	like(
		told($admin),
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
	for my $pid (worker_pids($node))
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
		like(told($admin), qr/2619"/, "$method, a new one can't be made: error");
		is(run($admin, "SELECT $terms FROM testdb_clones JOIN pg_database ON datname = name WHERE name = '$name'"),
			$before, "$method, a new one can't be made: the clone stays");
		is(count_rows($name), 7, "$method, a new one can't be made: with its content");
	}
	ok($admin->do("SELECT testdb_reset('$name')"), "$method, made anew") or diag told($admin);
	is(count_rows($name), 100, "$method, made anew: content is back");
	isnt(oid_of($admin, $name), $oid, "$method, made anew: it is another database");
	is( shown($name, 'name, template, owner, created_at, scope, expires_at, label'),
		$before =~ s/^\d+\|//r,
		"$method, made anew: terms stay");
	ok(!-e $node->data_dir . "/base/$oid" && !-e "$leases/$oid", "$method, made anew: nothing is left of the old one");
	ok($admin->do("SELECT testdb_reset('$name')"), "$method, made anew again") or diag told($admin);
	is( shown($name, 'created_at, expires_at'),
		run($admin, "SELECT created_at, created_at + interval '1 hour' FROM testdb_clones WHERE name = '$name'"),
		"$method, made anew again: its lifetime is not renewed");

	# What is dropped while it is made anew is gone.
	is(run($admin, "SELECT testdb_drop('$name')"), 't', "$method, made anew: it is dropped");
}
run($admin, 'RESET testdb.method');
adds_up('made anew');

# Who has a clone may have it reset only as long as the template may be cloned.
{
	my $user = connect_to($node, 'postgres', user => 'regress_user');
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
set_conf($node, 'reload', 'testdb.lock_timeout' => '100ms');
poll(sub { run(reconnect(), 'SHOW testdb.lock_timeout') eq '100ms' }) or die 'no reload';
run($admin, "SELECT testdb_drop(testdb_clone('$template'))") for 1 .. 4;
for my $lock_on ('its row', 'the database')
{
	my $name = clone(q{NULL, label => 'refused'});
	in_database($name, 'CREATE TABLE precious ()');
	my $lock = connect_to($node, 'postgres');
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
set_conf($node, 'reload', 'testdb.lock_timeout' => '60s');
adds_up('reset');

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
	ok($admin->do("SELECT $call('$name')"), "prepared transactions, $call: it works") or diag told($admin);
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
	my $user = connect_to($node, 'postgres', user => 'regress_user');
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
	my $gone = connect_to($node, 'postgres', user => 'regress_gone');
	my $name = clone(undef, $gone);
	$gone->close;
	run($admin, "ALTER DATABASE $name OWNER TO regress_user; DROP OWNED BY regress_gone; DROP ROLE regress_gone");
	is($user->query("SELECT testdb_reset('$name')"), '', 'the first owner was dropped: reset');
	is(shown($name, 'owner'), 'regress_user', 'the first owner was dropped: a reset leaves the owner');
	is($user->query("SELECT testdb_drop('$name')"), 't', 'the first owner was dropped: drop');
	is(run($admin, 'SELECT count(*) FROM pg_database d WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = datdba)'),
		0, 'the first owner was dropped: no database without an owner');
}
adds_up('plain SQL');

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
	  or diag told($admin);
	ok(poll(sub { !$snapshots->() }), 'DROP of a template: its snapshot goes');
	is(shown($first, 'template, label'), 'regression_short_lived|1', 'DROP of a template: the view has its last name');
	ok(!$admin->do("SELECT testdb_reset('$first')"), 'DROP of a template: no reset');
	like(told($admin), qr/^3D000: /, 'DROP of a template: error');
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
adds_up('DROP of a template');

#
# Several sessions do different things to the same clone: each is told how it went, and what is on disk is what is known.
#
{
	my @calls =
	  ('testdb_keep', 'testdb_reset', 'testdb_drop', 'testdb_keep', 'testdb_drop', 'testdb_keep', 'testdb_reset');
	my @clients = map { connect_to($node, 'postgres') } @calls;
	my (%told, @twice, @lies);
	for my $round (1 .. 60)
	{
		# Every third is one that a reset replaces.
		run($admin, 'SET testdb.method = ' . ($round % 3 ? 'native' : 'file_copy'));
		my $name = clone(q{NULL, 'session'});
		my @order = map { $calls[ ($_ + $round) % @calls ] } 0 .. $#calls;
		$clients[$_]->send("SELECT $order[$_]('$name')") for 0 .. $#calls;
		my @results = map { $_->result } @clients;
		my @answers = map { $_->{error} ? "$_->{error}{C}: $_->{error}{M}" =~ s/"\w+"/x/r : 'ok' } @results;
		$told{$_}++ for @answers;
		my @drops = map { $order[$_] eq 'testdb_drop' ? $answers[$_] : () } 0 .. $#order;
		push @twice, $name if grep({ $_ eq 'ok' } @drops) > 1;
		# A drop that worked, or found nothing, is the end of it.
		push @lies, "$name: @drops" if grep({ /^(ok|3D000)/ } @drops) && exists_now($name);
		run($admin, "SELECT testdb_drop('$name', true)");
	}
	is("@twice", '', 'at the same time: no two drops succeed');
	is(join("\n", @lies), '', 'at the same time: what a drop says has gone has gone');
	is( join(
			"\n",
			grep {
				!/^(ok|3D000: database x does not exist|55006: database x is being \w+|55000: database x has not been handed out by testdb_clone|42809: database x was not created by testdb)$/
			  }
			  sort keys %told),
		'',
		'at the same time: nothing but what can be expected is told');
	run($admin, 'RESET testdb.method');
	ok($told{ok} > 60, 'at the same time: more than the drops succeeds');
	$_->close for @clients;
	is(run($admin, 'SELECT count(*) FROM testdb_clones'), 0, 'at the same time: nothing is left');
}
adds_up('at the same time');

#
# A lease is written by one session at a time. Each is held at that by a pipe in the place of its file, which nobody reads;
# when that is opened, writing fails.
#
sub held_at_lease
{
	my ($file, $sql, $while) = @_;
	rename $file, "$file.saved" or die "rename: $!";
	mkfifo($file, 0600) or die "mkfifo: $!";
	my $client = connect_to($node, 'postgres');
	my $pid = $client->pid;
	$client->send($sql);
	poll(sub { slurp_file("/proc/$pid/wchan") =~ /wait_for_partner/ }) or die "process $pid does not wait for a reader";
	$while->();
	rename $file, "$file.pipe" or die "rename: $!";
	rename "$file.saved", $file or die "rename: $!";
	# A signal may just have made it open the file anew.
	sysopen my $reader, "$file.pipe", O_RDONLY | O_NONBLOCK or die "open: $!";
	$client->result;
	close $reader;
	unlink "$file.pipe";
	$client->close;
	return told($client);
}
SKIP:
{
	skip 'no /proc/*/wchan here', 1 unless -r '/proc/self/wchan';
	my $name = clone(q{NULL, 'manual', '1 hour'});
	my $file = "$leases/" . oid_of($admin, $name);
	my $dropper = connect_to($node, 'postgres');
	my $user = connect_to($node, $name);
	my $told = held_at_lease(
		$file,
		"SELECT testdb_keep('$name', '2 days')",
		sub {
			is(run($user, 'SELECT count(*) FROM t'), 100, 'keep and drop: who is in the clone goes on');
			is(in_database($name, 'SELECT count(*) FROM t'), 100, 'keep and drop: it can be connected to');
			$user->close;
			$dropper->send("SELECT testdb_drop('$name')");
			ok(!$dropper->readable(0.3), 'keep and drop: the drop waits');
			is(shown($name, q{state, expires_at < now() + interval '1 day'}),
				'leased|t', 'keep and drop: nothing is seen of the new terms yet');
		});
	like($told, qr/^\w+: could not write file "pg_testdb|^no error/, 'keep and drop: who could not write is told');
	is($dropper->result->{rows}[0][0], 't', 'keep and drop: then it is dropped');

	# A spare, before it is handed out. It is the only one: no other is made meanwhile, and none is on its way.
	run($admin, "SELECT testdb_prewarm('$template', 1)");
	run($admin, "SELECT testdb_template_set('$template', 0)");
	poll(sub { is_idle($admin) && run($admin, "SELECT recycling FROM testdb_templates WHERE name = '$template'") == 0 }
	);
	my @others;
	my $spares =
	  q{SELECT oid FROM testdb_clones() JOIN pg_database USING (oid) WHERE state = 'spare' AND pg_get_userbyid(datdba) = current_user};
	push @others, clone() while run($admin, $spares) =~ /\n/;
	my $oid = run($admin, $spares);
	my $spare = run($admin, "SELECT datname FROM pg_database WHERE oid = $oid");
	$told = held_at_lease(
		"$leases/$oid",
		"SELECT testdb_clone('$template')",
		sub {
			is(shown($spare, 'state'), '', 'a spare that is being handed out: the view does not have it');
			ok(!$dropper->do("SELECT testdb_drop('$spare')"),
				'a spare that is being handed out: nobody else can drop it');
			is($dropper->sqlstate, '55000', 'a spare that is being handed out: error') or diag told($dropper);
			is( run($admin, 'SELECT testdb_drop_all()'),
				scalar @others,
				'a spare that is being handed out: it is not among all');
		});
	like(
		$told,
		qr/^\w+: could not write file "pg_testdb|^no error/,
		'a spare that is being handed out: who could not write is told');
	run($admin, "SELECT testdb_drop('$spare', true)") if $told eq 'no error';
	ok(poll(sub { !exists_now($spare) }), 'a spare that could not be handed out goes');
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	$dropper->close;
}
adds_up('leases');

#
# A test that has failed keeps its clone from within it.
#
{
	in_database($template, 'CREATE EXTENSION testdb');
	my $name = clone(q{NULL, 'session'});
	my $user = connect_to($node, $name);
	ok($user->do(q{SELECT testdb_keep(current_database(), '1 hour')}), 'keep from within') or diag told($user);
	is(shown($name, q{scope, expires_at > now() + interval '59 min'}), 'manual|t', 'keep from within: it is kept');
	ok($user->do(q{BEGIN; SELECT testdb_keep(current_database()::text, NULL); ROLLBACK}),
		'keep from within a transaction')
	  or diag told($user);
	is(shown($name, 'expires_at IS NULL'), 't', 'keep from within a transaction: it is kept');
	for my $verb ('drop', 'reset')
	{
		ok(!$user->do("SELECT testdb_$verb(current_database())"), "$verb from within: refused");
		like(
			told($user),
			qr/^55006: cannot $verb the currently open database\nConnect to another database, such as "postgres", to call testdb_$verb\.$/,
			"$verb from within: error");
	}
	is(run($user, 'SELECT count(*) FROM t'), 100, 'keep from within: the session goes on');
	$user->close;
	run($admin, "SELECT testdb_drop('$name')");
	in_database($template, 'DROP EXTENSION testdb');
}
adds_up('keep from within');

#
# DROP ROLE: spares of the role are not in the way.
#
{
	run($admin,
		'CREATE ROLE regress_gone LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO regress_gone'
	);
	my $client = connect_to($node, 'postgres', user => 'regress_gone');
	run($client, "SELECT testdb_prewarm('$template', 2)");
	my @names = map { clone(undef, $client) } 1 .. 4;
	ok(!$admin->do('DROP ROLE regress_gone'), 'DROP ROLE: not while it has clones');
	run($client, "SELECT testdb_drop('$_')") for @names;
	$client->close;
	run($admin, 'DROP OWNED BY regress_gone');
	ok($admin->do('DROP ROLE regress_gone'), 'DROP ROLE: its spares are not in the way') or diag told($admin);
	is(run($admin, 'SELECT count(*) FROM pg_database d WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = datdba)'),
		0, 'DROP ROLE: no database without an owner');
}

# Nor are those of others in which something is the role's or was granted to it, when the template no longer says so.
for my $how (
	'granted on the template',
	'owner in the template',
	'owner of spares',
	'two roles',
	'DROP OWNED in the same transaction')
{
	my @roles = ('regress_gone', $how eq 'two roles' ? 'regress_gone_2' : ());
	my $roles = join ', ', @roles;
	run($admin, "CREATE ROLE $_ LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO $_")
	  for @roles;
	if ($how eq 'granted on the template' || $how eq 'DROP OWNED in the same transaction')
	{
		run($admin, "GRANT CREATE ON DATABASE $template TO regress_gone");
	}
	elsif ($how eq 'owner in the template')
	{
		in_database($template, 'CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO regress_gone');
	}
	run($admin, "SELECT testdb_prewarm('$template', 2)");
	if ($how !~ /template/)
	{
		for my $role (@roles)
		{
			my $client = connect_to($node, 'postgres', user => $role);
			run($client, "SELECT testdb_prewarm('$template', 2)");
			run($client, "SELECT testdb_drop(testdb_clone('$template'))");
			$client->close;
		}
	}
	if ($how eq 'granted on the template')
	{
		run($admin, "REVOKE ALL ON DATABASE $template FROM regress_gone");
	}
	elsif ($how eq 'owner in the template')
	{
		in_database($template, 'DROP OWNED BY regress_gone');
	}
	run($admin, "DROP OWNED BY $roles") if $how ne 'DROP OWNED in the same transaction';
	my $start = time;
	ok( $admin->do(
			$how eq 'DROP OWNED in the same transaction'
			? "BEGIN; DROP OWNED BY $roles; DROP ROLE $roles; COMMIT"
			: "DROP ROLE $roles"),
		"DROP ROLE, $how: no spare is in the way") or diag told($admin);
	$admin->do("ROLLBACK; DROP OWNED BY $roles; DROP ROLE $roles") if $admin->error;
	ok(time - $start < 4, "DROP ROLE, $how: nor waited for in vain");
	my $name = clone();
	is(count_rows($name), 100, "DROP ROLE, $how: clones can be made");
	run($admin, "SELECT testdb_drop('$name')");
}

# A role that is dropped while it asks for clones: they are in the way, and no spare.
{
	run($admin,
		'CREATE ROLE regress_gone LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO regress_gone'
	);
	my $client = connect_to($node, 'postgres', user => 'regress_gone');
	run($client, "SELECT testdb_prewarm('$template', 2)");
	my @names;
	for my $round (1 .. 10)
	{
		$client->send("SELECT testdb_clone('$template')");
		my $dropped = $admin->do('DROP ROLE regress_gone');
		my $told = told($admin);
		push @names, $client->result->{rows}[0][0] // die told($client);
		ok(!$dropped, 'DROP ROLE while it asks for clones: refused') or last;
		my %mine = map { $_ => 1 } @names;
		is(join(' ', grep { !$mine{$_} } $told =~ /owner of database (\w+)/g),
			'', 'DROP ROLE while it asks for clones: no spare is in the way');
	}
	run($client, "SELECT testdb_drop('$_')") for @names;
	$client->close;
	ok($admin->do('DROP OWNED BY regress_gone; DROP ROLE regress_gone'), 'DROP ROLE when it has none any more')
	  or diag told($admin);
}

# Spares are given to another role by REASSIGN OWNED, wherever they are in their life: nobody is handed such a one.
{
	my ($client, $name);
	run($admin,
		'CREATE ROLE regress_gone LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO regress_gone'
	);
	$client = connect_to($node, 'postgres', user => 'regress_gone');
	my @owners;
	for my $round (1 .. 20)
	{
		$name = clone(undef, $client);
		run($client, "SELECT testdb_drop('$name')");
		# The row may be written in this very instant.
		$admin->do('REASSIGN OWNED BY regress_gone TO regress_other');
		$name = clone(undef, $client);
		push @owners, shown($name, 'owner');
		run($admin, "SELECT testdb_drop('$name')");
	}
	is(join(' ', @owners), join(' ', ('regress_gone') x 20), 'REASSIGN OWNED: clones are those of the role that asked');
	$client->close;
	ok($admin->do('DROP OWNED BY regress_gone; DROP ROLE regress_gone'), 'REASSIGN OWNED: the role can be dropped')
	  or diag told($admin);
}
adds_up('DROP ROLE');

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
$admin->close;

#
# Restart and crash: what is handed out lives on, on its terms; spares, session scope and what was left behind don't.
#
for my $how ('restart', 'kill -9 of the server', 'kill -9 of a session')
{
	$admin = reconnect();
	my $client = connect_to($node, 'postgres', user => 'regress_user');
	my $plain = clone(q{'regression_plain', label => repeat('x', 200)}, $client);
	my $timed = clone(q{NULL, 'manual', '1 hour', 'timed'}, $client);
	my $session = clone(q{NULL, 'session', '1 hour', 'session'}, $client);
	my $kept = clone(q{NULL, 'session', label => 'kept'}, $client);
	run($client, "SELECT testdb_keep('$kept', '2 hours')");
	run($client, q{SET testdb.idle_timeout = '3s'});
	my $idle = clone(undef, $client);
	in_database($_, 'DELETE FROM t WHERE n > 7; CHECKPOINT') for $plain, $timed, $kept;
	cmp_ok(run($admin, "SELECT testdb_prewarm('$template', 3)"), '>=', 3, "$how: there are spares");
	my $terms = q{
		SELECT name, template, owner, created_at, scope, session_pid, expires_at, label FROM testdb_clones
		WHERE scope = 'manual' AND label IS NOT NULL ORDER BY name};
	my $before = run($admin, $terms);
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
		kill_server($node);
		start_again($node);
	}
	$admin = reconnect();
	is(run($admin, $terms), $before, "$how: clones are what they were");
	is(join(' ', map { count_rows($_) } $plain, $timed, $kept), '7 7 7', "$how: they have their content");
	ok(goes($session), "$how: session scope ends");
	is(join(' ', grep { !goes($_) } @spares), '', "$how: spares are removed");
	like(
		slurp_file($node->logfile, $offset),
		qr/LOG:  testdb found 4 databases that it created earlier\n.*DETAIL:  There (is|are) \d+ leftovers? to be removed/,
		"$how: the log says so");
	cmp_ok(run($admin, "SELECT testdb_prewarm('$template', 2)"), '>=', 2, "$how: spares can be made again");
	is(run(connect_to($node, 'postgres', user => 'regress_user'), "SELECT testdb_reset('$plain')"),
		'', "$how: a clone can be reset");
	is(count_rows($plain), 100, "$how: content is back");
	is(shown($plain, 'owner, length(label)'), 'regress_user|200', "$how: terms stay");
	ok(goes($idle), "$how: idle time goes on");
	is(in_database('postgres', 'SELECT testdb_drop_all()', user => 'regress_user'), 3, "$how: all can be dropped");
	adds_up($how);
}

# Left behind: a lease without a database, a directory without a row, a row that is marked invalid.
{
	my %oids = map { $_ => oid_of($admin, clone("'regression_$_'")) } qw(lease directory row good);
	$admin->close;
	set_conf($node, 'restart', shared_preload_libraries => '');
	$admin = reconnect();
	run($admin, 'DROP DATABASE regression_lease');
	run($admin, "DELETE FROM pg_database WHERE oid = $oids{directory}");
	run($admin, "UPDATE pg_database SET datconnlimit = -2 WHERE oid = $oids{row}");
	my $base = $node->data_dir . '/base';
	ok(-d "$base/$oids{directory}", 'left behind: there is a directory');
	ok(-e "$leases/$oids{lease}", 'left behind: there is a lease');
	$admin->close;
	my $offset = -s $node->logfile;
	set_conf($node, 'restart', shared_preload_libraries => 'testdb');
	$admin = reconnect();

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
adds_up('left behind');

ok(!$node->log_contains(qr/PANIC|TRAP|signal (6|11)|could not (drop|remove|recycle)/), 'no trouble in the log');
$node->stop;
done_testing();
