
# Who may be in a database while it is rewound, and who is in the way: until testdb.rewind_timeout is over, when they are
# named, or until force terminates them. Each kind of session is there in turn.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'sessions', q{
wal_level = logical
max_wal_senders = 4
max_replication_slots = 4
jit = off
testdb.rewind_timeout = 300ms
testdb.lock_timeout = 1s
});
my $admin = $node->session('postgres');
run($admin, "CREATE DATABASE $template IS_TEMPLATE true");
{
	my $client = $node->session($template);
	run($client, $_)
	  for 'CREATE EXTENSION testdb', 'CREATE TABLE plain (i int PRIMARY KEY, t text)',
	  q{INSERT INTO plain SELECT i, repeat('row', 100) || i FROM generate_series(1, 3000) i},
	  'CREATE INDEX plain_t ON plain (t)', 'VACUUM (FREEZE, ANALYZE)';
	$client->close;
}
my $clone = $admin->query("SELECT testdb_clone('$template', 'regression_clone')");
my $session = $node->session($clone);
my $count = 'SELECT count(*) FROM plain';

# Rewinds it after some change, by the function; true if that worked.
sub rewind
{
	my ($force) = @_;
	return $admin->do("SELECT testdb_rewind('$clone', " . ($force ? 'true' : 'false') . ')');
}

# What a session remembers of tables and indexes although no catalog has changed: where there was room in a table, and where
# an index has its root.
{
	my $other = $node->session($clone);
	for my $life (1 .. 3)
	{
		run($other, q{SET enable_seqscan = off});
		is(run($other, 'SELECT i FROM plain WHERE i = 2900'), '2900', "life $life: found by its index");
		run($session, q{INSERT INTO plain SELECT i, repeat('much', 150) || i FROM generate_series(3001, 9000) i});
		is(run($other, q{SELECT i FROM plain WHERE i = 8999}), '8999', "life $life: and so is a new row");
		is(run($other, q{SELECT i FROM plain WHERE t = repeat('much', 150) || 8000}), '8000', "life $life: by either");
		run($other, q{INSERT INTO plain VALUES (9001, 'the other one')});
		ok(rewind(), "life $life: is over") or diag $admin->message;
		for my $who ($session, $other)
		{
			$who->query(qq{INSERT INTO plain VALUES (@{[$who->pid + 100000]}, 'x')});
			is($who->message, '', "life $life: a session inserts where there is room now");
			is($who->query(q{SELECT i FROM plain WHERE t = repeat('row', 100) || 7}),
				'7', "life $life: and finds a row by its index")
			  or diag $who->message;
		}
		is(run($other, $count), '3002', "life $life: nothing of it is left");
		ok(rewind(), "life $life: and once more");
	}
	$other->close;
}

# Starts a session in the clone that sends something it gets no answer to.
sub busy_with
{
	my (@statements) = @_;
	my $busy = $node->session($clone, name => 'the busy one');
	my $last = pop @statements;
	run($busy, $_) for @statements;
	$busy->send($last);
	poll(sub { $admin->query("SELECT state = 'active' FROM pg_stat_activity WHERE pid = " . $busy->pid) eq 't' });
	return $busy;
}

# Is there something in pg_stat_activity for which this is true?
sub wait_for
{
	my ($condition) = @_;
	return poll(
		sub {
			$admin->query("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '$clone' AND ($condition)") eq 't';
		})
	  || die "nobody is there with $condition, but:\n"
	  . $admin->query("SELECT * FROM pg_stat_activity WHERE datname = '$clone'");
}

my $fifo = PostgreSQL::Test::Utils::tempdir() . '/dump';
mkfifo($fifo, oct 700) or die "mkfifo: $!";

# Each kind: how it comes to be there; what it is described as if it is in the way, and undef if it is not; how it ends by
# itself, and what it then finds. What is left out needs nothing.
my @kinds = (
	{
		name => 'idle',
		start => sub { return $node->session($clone) },
	},
	{
		name => 'just connecting',
		start => sub { return IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port) },
		end => sub { $_[0]->close },
	},
	{
		name => 'waiting for notifications',
		start => sub { my $who = $node->session($clone); run($who, 'LISTEN news'); return $who },
	},
	{
		name => 'frozen while it was idle',
		start => sub { my $who = $node->session($clone); kill 'STOP', $who->pid; return $who },
		end => sub {
			my ($who) = @_;
			kill 'CONT', $who->pid;
			is(run($who, $count), '3000', 'frozen while it was idle: it finds the new content when it goes on');
		},
	},
	{
		name => 'frozen while it was idle, and tables have been made',
		start => sub {
			my $who = $node->session($clone);
			run($who, $count);
			kill 'STOP', $who->pid;
			run($session, 'CREATE TABLE made (i int)');
			return $who;
		},
		wanted => qr/^Process \d+ of user ".*" may not have released its files/,
		stays => qr/Terminate it if it need not go on/,
		end => sub {
			kill 'CONT', $_[0]->pid;
			is(run($_[0], q{SELECT to_regclass('made')}), 'made', "frozen, and tables have been made: it goes on");
		},
	},
	{
		name => 'in a transaction',
		start => sub {
			my $who = $node->session($clone, name => 'the busy one');
			run($who, 'BEGIN; DELETE FROM plain');
			return $who;
		},
		wanted => qr/has been idle in a transaction since/,
		end => sub { run($_[0], 'COMMIT') },
	},
	{
		name => 'frozen in a transaction',
		start => sub {
			my $who = $node->session($clone, name => 'the busy one');
			run($who, 'BEGIN; DELETE FROM plain');
			kill 'STOP', $who->pid;
			return $who;
		},
		wanted => qr/has been idle in a transaction since/,
		stays => qr/were terminated, but did not exit/,
		end => sub {
			my ($who) = @_;
			kill 'CONT', $who->pid;
			poll(sub { !$who->do('SELECT 1') });
			ok(!$who->is_open, 'frozen in a transaction: it ends as soon as it goes on');
		},
	},
	{
		name => 'in a long query',
		start => sub { return busy_with('SELECT pg_sleep(100)') },
		wanted => qr/has been executing a command since/,
		end => sub { run($admin, 'SELECT pg_cancel_backend(' . $_[0]->pid . ')'); $_[0]->result },
	},
	{
		name => 'in COPY from its client',
		start => sub { my $who = busy_with('COPY plain FROM STDIN'); $who->send_copy("7001\tcopied\n"); return $who },
		wanted => qr/has been executing a command since/,
		end =>
		  sub { $_[0]->end_copy; is($_[0]->result->{error}, undef, 'in COPY from its client: it comes to its end') },
	},
	{
		name => 'in COPY to its client, which does not read',
		start => sub {
			my $who = busy_with(q{COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT});
			wait_for("wait_event = 'ClientWrite'");
			return $who;
		},
		wanted => qr/has been executing a command since/,
		end => sub { is($_[0]->result->{error}, undef, 'in COPY to its client: it comes to its end') },
		lost => '08006',    # the message can't be sent in the middle of another one
	},
	{
		name => 'in a parallel query',
		start => sub {
			my $who = busy_with(
				'SET max_parallel_workers_per_gather = 2',
				'SET parallel_setup_cost = 0',
				'SET parallel_tuple_cost = 0',
				'SET min_parallel_table_scan_size = 0',
				'SET enable_indexscan = off',
				'SET enable_indexonlyscan = off',
				'SET enable_bitmapscan = off',
				'SELECT count(*) FROM plain WHERE pg_sleep(0.05) IS NOT NULL');
			wait_for("backend_type = 'parallel worker'");
			return $who;
		},
		wanted => qr/has been executing a command since/,
		end => sub { run($admin, 'SELECT pg_cancel_backend(' . $_[0]->pid . ')'); $_[0]->result },
	},
	{
		name => 'pg_dump',
		start => sub {
			# It is stuck in a write as soon as the pipe is full; the data come to 1 MB.
			open my $reader, '+<', $fifo or die "$fifo: $!";
			my $dump =
			  IPC::Run::start([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $fifo, $clone ], '<', \undef);
			wait_for("wait_event = 'ClientWrite' AND query LIKE 'COPY public.plain%'");
			return [ $dump, $reader ];
		},
		wanted => qr/has been executing a command since/,
		end => sub {
			my ($dump, $reader) = @{ $_[0] };
			my $text = '';
			my $end = time + 60;
			while ($text !~ /PostgreSQL database dump complete/ && time < $end)
			{
				next unless IO::Select->new($reader)->can_read(1);
				sysread $reader, $text, 65536, length $text or last;
			}
			ok($dump->finish, 'pg_dump: it comes to its end');
			my @rows = $text =~ /^\d+\t(?:row)+\d+$/mg;
			is(scalar @rows, 2991, 'pg_dump: with the rows of its snapshot');
		},
		killed => sub { $_[0][0]->kill_kill },
	},
	{
		name => 'in VACUUM',
		start => sub {
			return busy_with(
				'DELETE FROM plain WHERE i < 2000',
				'SET vacuum_cost_delay = 100',
				'SET vacuum_cost_limit = 1',
				'VACUUM plain');
		},
		wanted => qr/has been executing a command since/,
		end => sub { run($admin, 'SELECT pg_cancel_backend(' . $_[0]->pid . ')'); $_[0]->result },
	});

for my $kind (@kinds)
{
	my $name = $kind->{name};
	my $end = $kind->{end} || sub { is(run($_[0], $count), '3000', "$name: it goes on with the new content") };
	run($session, 'DELETE FROM plain WHERE i < 10');
	my $who = $kind->{start}->();
	my $begun = time;
	if (!$kind->{wanted})
	{
		ok(rewind(), "$name: not in the way") or diag $admin->message;
		is(run($session, $count), '3000', "$name: others go on with the new content");
		$end->($who);
		next;
	}

	ok(!rewind(), "$name: in the way");
	is($admin->sqlstate, '55006', "$name: which is an error") or diag $admin->message;
	like($admin->error->{D} // '', $kind->{wanted}, "$name: that says what it does");
	cmp_ok(time - $begun, '<', 20, "$name: soon");
	is($session->query('SELECT 1'), '1', "$name: others go on");
	if ($kind->{stays})
	{
		ok(!rewind(1), "$name: not even force ends it");
		is($admin->sqlstate, '55006', "$name: which is an error, too");
		like($admin->error->{H} // '', $kind->{stays}, "$name: that says so");
		is($session->query('SELECT 1'), '1', "$name: others still go on");
	}
	$end->($who);
	ok(rewind(), "$name: not after its end") or diag $admin->message;
	is(run($session, $count), '3000', "$name: then the content is new");
	next if $kind->{stays};

	run($session, 'DELETE FROM plain WHERE i < 10');
	$who = $kind->{start}->();
	ok(rewind(1), "$name: force ends it") or diag $admin->message;
	is(run($session, $count), '3000', "$name: others go on with the new content after that");
	if    ($kind->{killed}) { $kind->{killed}->($who) }
	elsif (ref $who ne 'ARRAY')
	{
		my $error = $who->result->{error};
		$error = $who->do('SELECT 1') ? undef : $who->error unless $error;
		is($error->{C}, $kind->{lost} // '57P01', "$name: it is told so") or diag $who->message;
	}
}

# A command of several transactions is in the way between these as well: what it has begun in one content it must not continue in
# another, nor is its session terminated. Each finds the rows of its own earlier transactions. That holds for a session that does
# not report what it does, and for one that gets no processor for longer than anything takes.
for my $kind ('reported', 'not reported', 'frozen again and again')
{
	my $runner = $node->session($clone);
	my ($rewinds, @torn) = (0);
	run($runner, 'SET track_activities = off') if $kind eq 'not reported';
	for my $turn (1 .. ($kind =~ /^frozen/ ? 3 : 8))
	{
		ok(rewind(1), "$kind: a new content") or diag $admin->message if $turn == 1;
		$runner->send(
			q{DO $$ BEGIN FOR n IN 1 .. 400 LOOP
				IF (SELECT count(*) FROM plain WHERE i > 100000) <> n - 1 THEN RAISE EXCEPTION 'torn before row %', n; END IF;
				INSERT INTO plain VALUES (100000 + n, 'x');
				FOR i IN 0 .. } . ($kind =~ /^frozen/ ? 50 : 0) . q{ LOOP COMMIT; END LOOP;
			END LOOP; END $$});
		until ($runner->readable(0))
		{
			kill 'STOP', $runner->pid if $kind =~ /^frozen/;
			$admin->send("SELECT testdb_rewind('$clone')");
			$admin->readable(0.2);
			kill 'CONT', $runner->pid if $kind =~ /^frozen/;
			$rewinds++ unless $admin->result->{error};
		}
		$runner->result;
		push @torn, $runner->message if $runner->error;
		last unless $runner->is_open;
		poll(sub { rewind() }) or die $admin->message;
	}
	is(join("\n", @torn), '', "in a procedure that commits, $kind: it is not torn by a rewind ($rewinds in between)");
	$runner->close;
}

# Who has an error behind it and has not said that this was all, as a pipeline does, is active and yet not in the way.
{
	my $who = $node->session($clone);
	$who->send_parse('SELECT nonsense');
	wait_for('pid = ' . $who->pid . q{ AND state = 'active' AND wait_event = 'ClientRead'});
	run($admin, 'SET testdb.rewind_timeout = 5000');
	ok(rewind(), 'after an error in a pipeline: not in the way') or diag $admin->message;
	run($admin, 'RESET testdb.rewind_timeout');
	$who->send_sync;
	is($who->result->{error}{C}, '42703', 'after an error in a pipeline: it has its error');
	is(run($who, $count), '3000', 'after an error in a pipeline: and the new content');
	$who->close;
}

# Force terminates who is in the way, and not who only does not report that it is idle.
{
	my ($silent, $busy) = map { $node->session($clone) } 1 .. 2;
	run($silent, 'SET track_activities = off');
	run($busy, 'BEGIN; DELETE FROM plain');
	ok(rewind(1), 'force, and a session that reports nothing: it is rewound') or diag $admin->message;
	is($silent->query($count), '3000', 'it is not terminated') or diag $silent->message;
	ok(!$busy->do('SELECT 1'), 'the other one is');
	run($silent, 'BEGIN');
	ok(!rewind(), 'in a transaction it is in the way');
	like($admin->error->{D} // '', qr/^Process \d+ of user .* does not report what it is executing\.$/, 'and named');
	$silent->close;
}

# Who follows what the database does.
{
	run($admin, q{SELECT pg_create_physical_replication_slot('regress_physical')});
	ok(!rewind(), 'a slot for a standby is in the way, since that would not learn of it');
	is($admin->sqlstate, '55000', 'which is an error');
	like(
		$admin->error->{D} . $admin->error->{H},
		qr/WAL is being consumed.*testdb_reset/,
		'that says so, and what can be done');
	run($admin, q{SELECT pg_drop_replication_slot('regress_physical')});
	run($session, q{SELECT pg_create_logical_replication_slot('regress_logical', 'pgoutput')});
	ok(!rewind(), 'a logical slot of the database is in the way');
	is($admin->sqlstate, '55000', 'which is an error');
	like(
		$admin->error->{D} . $admin->error->{H},
		qr/replication slots.*testdb_reset/,
		'that names it, and what can be done');
	run($session, q{SELECT pg_drop_replication_slot('regress_logical')});
	ok(rewind(), 'not when it has gone') or diag $admin->message;
}

# What makes a rewind impossible may also come while it waits.
{
	my $space = PostgreSQL::Test::Utils::tempdir();
	run($admin, "CREATE TABLESPACE regress_space LOCATION '$space'");
	run($admin, q{SET testdb.rewind_timeout = '60s'});
	for my $kind (
		[
			'a slot',
			q{SELECT pg_create_logical_replication_slot('regress_late', 'pgoutput')},
			q{SELECT pg_drop_replication_slot('regress_late')}
		],
		[ 'a tablespace', 'CREATE TABLE late (i int) TABLESPACE regress_space', 'DROP TABLE late' ])
	{
		my ($name, $make, $drop) = @$kind;
		my $who = $node->session($clone);
		my $watcher = $node->session('postgres');
		run($who, 'BEGIN');
		run($who, $count);
		$admin->send("SELECT testdb_rewind('$clone')");
		poll(
			sub {
				$watcher->query(q{SELECT count(*) FROM pg_stat_activity WHERE query = 'testdb: rewinding databases'});
			});
		run($who, $_) for $make, 'COMMIT';
		is($admin->result->{error}{C}, '55000', "$name that comes while a rewind waits: it is an error")
		  or diag $admin->message;
		ok($who->do($drop), "$name that comes while a rewind waits: it is still there") or diag $who->message;
		$_->close for $who, $watcher;
	}
	run($admin, $_) for 'RESET testdb.rewind_timeout', 'DROP TABLESPACE regress_space';
	ok(rewind(), 'when they have gone it is rewound') or diag $admin->message;
}

my $log = slurp_file($node->logfile);
is(join("\n", grep { /PANIC|could not|unexpected|invalid page|TRAP/ } split /\n/, $log), '', 'the log is clean');
done_testing();
