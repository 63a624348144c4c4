
# Rewinds at random, under sessions that do everything at once. Whatever they did, and however often the database was
# rewound meanwhile: nobody sees a row of a former life, nobody misses one of the template, and index and table agree.
#
#   TESTDB_REWIND_SECONDS   how long: 12, or 6 in a short run; 0: not at all
#   TESTDB_REWIND_SEED      repeats the choices of another run (not its timing)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use List::Util qw(shuffle sum0);
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time usleep);

my $seconds = how_much('TESTDB_REWIND_SECONDS', 6, 12);
plan skip_all => 'TESTDB_REWIND_SECONDS is 0' unless $seconds;
my $seed = $ENV{TESTDB_REWIND_SEED} || int(time * 1000) % 1_000_000_000;
my $nworkers = 8;

note "TESTDB_REWIND_SECONDS=$seconds TESTDB_REWIND_SEED=$seed";

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'stress', q{
max_connections = 80
max_worker_processes = 16
restart_after_crash = on
jit = off
testdb.rewind_timeout = 60s
testdb.timeout = 120s
lock_timeout = 10s
});
my $admin = $node->session('postgres');
my $amcheck = has_contrib('amcheck');
run($admin, "CREATE DATABASE $template IS_TEMPLATE true");
{
	my $client = $node->session($template);
	run($client, $_) for split(
		/;;/, q{
		CREATE EXTENSION testdb;;
		CREATE TABLE plain (i int PRIMARY KEY, t text);;
		INSERT INTO plain SELECT i, 'row ' || i FROM generate_series(1, 1000) i;;
		CREATE INDEX plain_t ON plain (t text_pattern_ops);;
		CREATE TABLE toasted (i serial PRIMARY KEY, t text);;
		ALTER TABLE toasted ALTER t SET STORAGE external;;
		INSERT INTO toasted (t) SELECT repeat('y', 9000) FROM generate_series(1, 10);;
		CREATE UNLOGGED TABLE light AS SELECT i FROM generate_series(1, 300) i;;
		CREATE TABLE parted (i int) PARTITION BY LIST (i);;
		CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);;
		INSERT INTO parted VALUES (0), (0), (0);;
		CREATE SEQUENCE counter CACHE 20;;
		CREATE SEQUENCE slow;;
		CREATE TYPE mood AS ENUM ('good', 'bad');;
		CREATE DOMAIN small AS int CHECK (VALUE < 10);;
		CREATE TYPE pair AS (a int, b text);;
		SELECT lo_from_bytea(12345, repeat('z', 5000)::bytea);;
		CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';;
		CREATE FUNCTION answer() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''template''; END';;
		CREATE TABLE t1 (who int, n int, pad text, PRIMARY KEY (who, n));;
		CREATE INDEX t1_pad ON t1 (pad);;
		INSERT INTO t1 SELECT 0, g, 'base ' || g FROM generate_series(1, 500) g;;
		CREATE TABLE t2 (LIKE t1 INCLUDING ALL);;
		INSERT INTO t2 SELECT * FROM t1}),
	  ($amcheck ? 'CREATE EXTENSION amcheck' : ());
	for my $k (1 .. $nworkers)
	{
		run($client, $_)
		  for "CREATE TABLE own_$k (n int PRIMARY KEY, t text)",
		  "INSERT INTO own_$k SELECT g, 'row ' || g FROM generate_series(1, 300) g",
		  "CREATE INDEX ON own_$k (t)", "CREATE TABLE trunc_$k (i int PRIMARY KEY)", "CREATE SEQUENCE seq_$k CACHE 20",
		  "CREATE FUNCTION f_$k() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 0; END'";
	}
	run($client, 'VACUUM (FREEZE, ANALYZE)');
	$client->close;
}

# Clones for sessions that are looked at after each rewind, and one for those that never stop.
my @clones = map { $admin->query("SELECT testdb_clone('$template', 'regression_strict_$_', 'manual')") } 1 .. 3;
my $shared = $admin->query("SELECT testdb_clone('$template', 'regression_shared', 'manual')");

# How a session reads. Whichever way, it must find the same.
my $by_index =
  'RESET ALL; SET enable_seqscan = off; SET enable_indexscan = on; SET enable_indexonlyscan = on; SET enable_bitmapscan = on';
my $by_table =
  'RESET ALL; SET enable_seqscan = on; SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off';
my $in_parallel = "$by_table; SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0;
	SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0";
my @ways = (($by_index, $by_table, 'RESET ALL') x 4, $in_parallel);

# What a session sees of the template, as text.
my $look = q{
	SELECT concat_ws(' ',
		(SELECT count(*) || ':' || sum(hashtext(i || t)::bigint) FROM plain),
		(SELECT count(*) FROM plain WHERE i BETWEEN 100 AND 199),
		(SELECT count(*) || max(t) FROM plain WHERE t LIKE 'row 29%'),
		(SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM toasted),
		(SELECT count(*) FROM light), (SELECT count(*) FROM parted), (SELECT count(*) FROM t1), (SELECT count(*) FROM own_1),
		(SELECT md5(string_agg(oid || relname || relfilenode || relnatts, ',' ORDER BY oid)) FROM pg_class WHERE oid > 1000),
		(SELECT count(*) FROM pg_attribute WHERE attrelid > 1000),
		(SELECT md5(string_agg(proname || prosrc, ',' ORDER BY oid)) FROM pg_proc WHERE oid > 16000),
		to_regclass('made'), enum_range(NULL::mood)::text, length(lo_get(12345)), answer(), twice(4))};
my $seen;

# Finds that out in a clone that nobody has touched; so many rows are in the unlogged table, which a crash empties.
sub look_at_template
{
	my ($nlight) = @_;
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my $first = $node->session($name);
	$seen = run($first, $look);
	$first->close;
	run($admin, "SELECT testdb_drop('$name')");
	return like(
		$seen,
		qr/^1000:\S+ 100 11row 299 \w+ $nlight 3 500 300 \w+ \d+ \w+ \{good,bad\} 5000 template 8$/,
		'what the template is');
}
look_at_template(300);

# What they do to it, one statement after the other: to rows only, and to all. A statement may fail, since others have been
# there before.
my @writes = map { [ split /;;/ ] } (
	q{INSERT INTO plain SELECT i, 'new' FROM generate_series(1001, 3000) i},
	q{UPDATE plain SET t = 'other ' || i},
	q{UPDATE plain SET t = 'row 29 other' WHERE i < 10},
	'DELETE FROM plain WHERE i BETWEEN 50 AND 150',
	q{INSERT INTO plain SELECT i, repeat('x', 500) || i FROM generate_series(4001, 6000) i;; SELECT count(*) FROM plain WHERE i = 5000},
	q{SELECT nextval('counter');; SELECT nextval('counter')},
	q{SELECT nextval('slow') FROM generate_series(1, 100)},
	q{INSERT INTO toasted (t) SELECT repeat(i::text, 3000) FROM generate_series(1, 20) i},
	q{UPDATE toasted SET t = repeat('other', 2000)},
	'CLOSE ALL;; BEGIN;; DECLARE held CURSOR WITH HOLD FOR SELECT i FROM plain ORDER BY i;; COMMIT;; FETCH 5 FROM held',
	'BEGIN;; SAVEPOINT s;; DELETE FROM plain;; ROLLBACK TO s;; DELETE FROM light;; COMMIT',
	q{LISTEN news;; NOTIFY news, 'x'},
	q{COPY plain FROM PROGRAM 'seq -f "%.0f	copied" 7000 7500'},
	q{INSERT INTO light SELECT 1 FROM generate_series(1, 1000)},
	'CHECKPOINT',
	'SELECT pg_stat_reset()',
	'BEGIN;; SELECT 1/0');
my @deeds = (
	@writes,
	map { [ split /;;/ ] } (
		'TRUNCATE plain',
		q{TRUNCATE plain;; INSERT INTO plain VALUES (1, 'one')},
		'DROP TABLE plain CASCADE',
		q{DROP TABLE plain CASCADE;; CREATE TABLE plain (x text);; INSERT INTO plain VALUES ('x');; SELECT * FROM plain},
		q{CREATE TABLE made AS SELECT 1 AS i;; SELECT * FROM made},
		q{CREATE TABLE made (i serial PRIMARY KEY, t text);; INSERT INTO made (t) SELECT 'x' FROM generate_series(1, 500);; DROP TABLE made},
		q{ALTER TABLE plain ADD x int DEFAULT 7;; SELECT x FROM plain LIMIT 1},
		'ALTER TABLE plain DROP t',
		'ALTER TABLE plain ALTER i TYPE bigint',
		'ALTER TABLE plain RENAME t TO u;; SELECT u FROM plain LIMIT 1',
		q{ALTER TYPE mood ADD VALUE IF NOT EXISTS 'ugly';; SELECT 'ugly'::mood},
		q{ALTER DOMAIN small DROP CONSTRAINT small_check;; SELECT 11::small},
		q{ALTER TYPE pair ADD ATTRIBUTE c int;; SELECT (1, 'x', 2)::pair},
		q{CREATE OR REPLACE FUNCTION answer() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''clone''; END';; SELECT answer()},
		q{CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 0';; SELECT twice(4)},
		'ALTER TABLE parted DETACH PARTITION parted_0;; INSERT INTO parted VALUES (0)',
		'CREATE TABLE parted_9 PARTITION OF parted FOR VALUES IN (9);; INSERT INTO parted VALUES (9)',
		q{DROP INDEX plain_t;; CREATE INDEX other ON plain (t, i);; SELECT count(*) FROM plain WHERE t = 'row 7'},
		'CREATE INDEX CONCURRENTLY concurrent ON plain (t)',
		'VACUUM FULL plain',
		'VACUUM FULL pg_class;; SELECT count(*) FROM pg_class',
		'VACUUM FULL pg_attribute',
		'VACUUM FULL pg_proc;; VACUUM FULL pg_type',
		'REINDEX TABLE plain',
		'REINDEX TABLE pg_class',
		'CLUSTER plain USING plain_pkey',
		'ANALYZE',
		'VACUUM plain',
		'TRUNCATE light',
		q{SELECT lo_unlink(12345);; SELECT lo_from_bytea(54321, 'x')},
		'CREATE SCHEMA s;; CREATE TABLE s.plain ();; SET search_path = s, public;; SELECT count(*) FROM plain;; RESET search_path',
		'BEGIN;; DROP TABLE plain CASCADE;; ROLLBACK'));

# SQLSTATEs that such a statement must never get: what is missing is not missing in files, and nobody ends anybody.
my $damage = qr/^(?:XX|58|57|55000|08|53)/;

# Rounds of: deeds, a rewind, and a look by those who were there; in a process of its own, for one clone.
sub be_strict
{
	my ($db, $file, $end) = @_;
	my (%count, %wrong);
	my $boss = $node->session('postgres');
	my $other = $node->session('postgres');
	my $writes_only = rand() < 0.5;
	my @sessions;
	my $complain = sub { $wrong{ $_[0] }++ };
	while (time < $end)
	{
		push @sessions, $node->session($db) while @sessions < 4;
		for my $who (@sessions)
		{
			next if $who->{knows};
			$who->{knows} = 1;
			$who->do("PREPARE look AS $look") && $who->prepare('look2', $look)
			  or $complain->('prepare: ' . $who->message);
		}

		# At the end of some lives in a row the catalogs are as they were.
		$writes_only = rand() < 0.6 if rand() < 0.2;
		my @choice = $writes_only ? @writes : @deeds;
		for my $deed (map { $choice[ rand @choice ] } 1 .. 1 + int rand 5)
		{
			my $who = $sessions[ rand @sessions ];
			for (@$deed)
			{
				$count{statements}++;
				$who->query($_);
				$complain->("$_: " . $who->message) if $who->sqlstate =~ $damage && !($who->sqlstate eq '57014');
			}
			$who->query('EXECUTE look') if rand() < 0.3;
			$who->execute('look2') if rand() < 0.3;
			# Who has failed in a transaction may stay so during the rewind.
			$who->query('ROLLBACK') unless $deed->[-1] =~ m{1/0} && rand() < 0.3;
		}

		# Two ways to ask for a rewind, and two at a time.
		my @asked = rand() < 0.3 ? ($boss, $other) : ($boss);
		if (rand() < 0.3)
		{
			@asked = ($sessions[ rand @sessions ]);
			$asked[0]->do('ROLLBACK');
		}
		$_->send($_ == $boss || $_ == $other ? "SELECT testdb_rewind('$db')" : 'CALL testdb_rewind()') for @asked;
		for (@asked)
		{
			my $error = $_->result->{error};
			$complain->("rewind: $error->{C} $error->{M}") if $error;
			$count{rewinds}++;
		}

		# Some look, others come later.
		my $turn = 0;
		for my $who (shuffle @sessions)
		{
			next if rand() < 0.2;
			$who->query('ROLLBACK');
			$who->query($ways[ rand @ways ]) if rand() < 0.5;
			for my $how (shuffle 'simple', 'EXECUTE', 'extended')
			{
				my $got =
					$how eq 'simple'  ? $who->query($look)
				  : $how eq 'EXECUTE' ? $who->query('EXECUTE look')
				  :                     ($who->execute('look2'))[0];
				$got = $got->[0] if ref $got;
				$count{looks}++;
				$complain->("look by $how: " . ($got // $who->message)) if ($got // '') ne $seen;
			}
			my $values = $who->query(q{SELECT nextval('counter') || ' ' || nextval('slow')});
			my $wanted = (1 + 20 * $turn) . ' ' . (1 + $turn);
			$complain->('sequences: ' . ($values // $who->message) . " instead of $wanted")
			  if ($values // '') ne $wanted;
			$turn++;
		}
		if (rand() < 0.1)
		{
			my $leaver = splice @sessions, rand @sessions, 1;
			$leaver->close;
		}
		# What goes wrong once may go wrong each time.
		last if keys %wrong > 20;
	}
	add_line($file, 'count', $_, $count{$_}) for keys %count;
	add_line($file, 'wrong', $_ =~ s/\s+/ /gr, $wrong{$_}) for keys %wrong;
	return;
}

# What a worker does besides its rows, with %k for its number: alone, and in its transaction, where
# the last one changes catalogs.
my @alone = (
	'VACUUM own_%k',
	'VACUUM FULL own_%k',
	'ANALYZE own_%k',
	'REINDEX TABLE own_%k',
	'CLUSTER own_%k USING own_%k_pkey',
	'ALTER TABLE own_%k ADD COLUMN IF NOT EXISTS z int DEFAULT 3',
	'ALTER TABLE own_%k DROP COLUMN IF EXISTS z',
	'CREATE INDEX IF NOT EXISTS own_%k_z ON own_%k (t, n)',
	'DROP INDEX IF EXISTS own_%k_z',
	'CREATE INDEX CONCURRENTLY IF NOT EXISTS own_%k_c ON own_%k (n)',
	'DROP INDEX CONCURRENTLY IF EXISTS own_%k_c',
	q{CREATE TABLE IF NOT EXISTS x_%k AS SELECT g AS i, repeat('x', 100) AS t FROM generate_series(1, 300) g},
	'DROP TABLE IF EXISTS x_%k',
	'TRUNCATE trunc_%k',
	q{TRUNCATE trunc_%k; COPY trunc_%k FROM PROGRAM 'seq 1 500'},
	q{ALTER TYPE mood ADD VALUE IF NOT EXISTS 'mood_%k'},
	q{CREATE OR REPLACE FUNCTION f_%k() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'},
	q{CREATE OR REPLACE FUNCTION f_%k() RETURNS int LANGUAGE sql AS 'SELECT 2'},
	'CREATE TABLE IF NOT EXISTS parted_%k PARTITION OF parted FOR VALUES IN (%k)',
	'DROP TABLE IF EXISTS parted_%k',
	q{LISTEN news; NOTIFY news, '%k'},
	q{SELECT lo_from_bytea(0, repeat('z', 3000)::bytea)},
	'CLOSE ALL',
	'DISCARD PLANS',
	'DO $$ BEGIN FOR i IN 1 .. 3 LOOP UPDATE own_%k SET t = t WHERE n = i; COMMIT; END LOOP; END $$',
	'CREATE INDEX IF NOT EXISTS t1_%k ON t1 (n, who)',
	'DROP INDEX IF EXISTS t1_%k');
my @inside = (
	q{SAVEPOINT s; UPDATE own_%k SET t = t || 'x' WHERE n < 100; ROLLBACK TO s},
	q{UPDATE own_%k SET t = 'u' || random() WHERE n <= 300},
	q{INSERT INTO own_%k SELECT g, repeat('y', 200) || g FROM generate_series(500, 900) g ON CONFLICT DO NOTHING},
	'DELETE FROM own_%k WHERE n BETWEEN 500 AND 900',
	'DECLARE c CURSOR FOR SELECT n FROM own_%k ORDER BY n; FETCH 10 FROM c',
	'CLOSE ALL; DECLARE held CURSOR WITH HOLD FOR SELECT n FROM own_%k WHERE n <= 300 ORDER BY n',
	q{SELECT nextval('seq_%k')},
	'SELECT f_%k()',
	q{CREATE TABLE y_%k (i int PRIMARY KEY, t text); INSERT INTO y_%k SELECT g, 'x' FROM generate_series(1, 200) g; SELECT * FROM y_%k WHERE i = 7; DROP TABLE y_%k}
);

# Errors that the test itself provokes: deadlocks over indexes of the same table; and that somebody is ended by force, or by
# a crash.
my $provoked = qr/^(?:40P01|55P03|40001)/;
my $ended = qr/^(?:57P0[123]|08...)/;

# One of those who never stop, number $k of a clone, in a process of its own. Each transaction writes another row of this worker
# into three tables. So what it finds there is its last rows without a gap, from where the database was rewound, and that
# never goes back.
sub work
{
	my ($k, $db, $file, $end, $crashes) = @_;
	srand $seed + $k;
	my ($low, $last, $in_doubt) = (1, 0, 0);
	my (%count, %wrong, $session);
	my $ok = sub {
		my ($what) = @_;
		return 1 unless $session->error;
		my $harmless =
			 $session->sqlstate =~ $provoked
		  || $session->sqlstate =~ $ended
		  || ($crashes && $session->message =~ /worker/);
		$harmless = 0 if $session->message =~ /no answer/;
		$wrong{ "$what: " . $session->message }++ unless $harmless;
		$count{ $session->sqlstate }++;
		return 0;
	};
	my $sql = sub { my $text = $_[0] =~ s/%k/$k/gr; return $text };
	my $check = sub {
		my ($row) = @_;
		my ($n1, $n2, $base, $own, @lists) = @$row;
		$wrong{"t1 has $n1 rows, t2 $n2"}++ if $n1 != $n2;
		$wrong{"$base rows of the template in t1, $own in own_$k"}++ if $base != 500 || $own != 300;
		$wrong{"t1 has rows $lists[0], t2 $lists[1], own_$k $lists[2]"}++ if grep { $_ ne $lists[0] } @lists;
		my @rows = split /,/, $lists[0];
		$last++ if $in_doubt && @rows && $rows[-1] == $last + 1;
		$in_doubt = 0;
		my $first = @rows ? $rows[0] : $last + 1;
		$wrong{"rows $lists[0] where $low to $last were written"}++
		  if $first < $low || $lists[0] ne join ',', $first .. $last;
		$low = $first;
		return;
	};

	while (time < $end && keys %wrong < 20)
	{
		unless ($session && $session->is_open)
		{
			$session = $node->connect_to($db);
			unless ($ok->('connect'))
			{
				usleep(5000);
				next;
			}
			$session->prepare(
				'state',
				$sql->(
					q{SELECT (SELECT count(*) FROM t1), (SELECT count(*) FROM t2),
				(SELECT count(*) FROM t1 WHERE who = 0), (SELECT count(*) FROM own_%k WHERE n <= 300),
				coalesce((SELECT string_agg(n::text, ',' ORDER BY n) FROM t1 WHERE who = $1), ''),
				coalesce((SELECT string_agg(n::text, ',' ORDER BY n) FROM t2 WHERE who = $1), ''),
				coalesce((SELECT string_agg((n - 1000000)::text, ',' ORDER BY n) FROM own_%k WHERE n > 1000000), '')}));
			next unless $ok->('prepare');
			$session->prepare(
				'add',
				$sql->(
					q{WITH a AS (INSERT INTO t1 VALUES (%k, $1, 'row ' || random())),
				b AS (INSERT INTO t2 VALUES (%k, $1, 'row ' || random()))
				INSERT INTO own_%k VALUES ($1 + 1000000, 'row ' || $1)}));
			next unless $ok->('prepare');
		}

		# For half of the time the catalogs stay as they are.
		my $writes_only = int(2 * time) % 2;
		if (!$writes_only && rand() < 0.3)
		{
			my $what = $sql->($alone[ rand @alone ]);
			$session->do($what);
			$ok->($what) or next;
		}
		if ($k <= 2 && rand() < 0.1)
		{
			$session->do('CALL testdb_rewind()');
			$ok->('CALL testdb_rewind()') or next;
			$count{calls}++;
			$low = $last + 1;
			my $value = $session->query("SELECT nextval('seq_$k')");
			$ok->('nextval') or next;
			$wrong{"nextval is $value after CALL testdb_rewind()"}++ if $value != 1;
		}
		if (rand() < 0.3)
		{
			$session->do($ways[ rand @ways ]);
			$ok->('SET') or next;
		}

		$session->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
		$ok->('BEGIN') or next;
		my ($state) = $session->execute('state', $k);
		if ($ok->('state'))
		{
			$check->($state);
			$session->execute('add', $last + 1);
			$ok->('add');
		}
		if (!$session->error && rand() < 0.4)
		{
			my $what = $sql->($inside[ rand($writes_only ? @inside - 1 : @inside) ]);
			$session->do($what);
			$ok->($what);
		}
		if (!$session->error && rand() < 0.9)
		{
			$session->do('COMMIT');
			if    ($ok->('COMMIT'))    { $last++ }
			elsif (!$session->is_open) { $in_doubt = 1 }
			$count{transactions}++;
		}
		elsif ($session->is_open)
		{
			$session->do('ROLLBACK');
			$ok->('ROLLBACK');
		}
		# The connection is closed a moment after the error has been sent.
		$session->close if $session->error && $session->sqlstate =~ $ended;
	}
	add_line($file, 'count', $_, $count{$_}) for keys %count;
	add_line($file, 'wrong', $_ =~ s/\s+/ /gr, $wrong{$_}) for keys %wrong;
	return;
}

# Rewinds their clone again and again, sometimes by force.
sub rewind_often
{
	my ($db, $file, $end, $crashes) = @_;
	my (%count, %wrong, $session);
	while (time < $end)
	{
		$session = $node->connect_to('postgres') unless $session && $session->is_open;
		my $force = rand() < 0.03 ? 'true' : 'false';
		$session->do("SELECT testdb_rewind('$db', $force)") unless $session->error;
		$session->error ? $count{ $session->sqlstate }++ : $count{rewinds}++;
		$wrong{ 'rewind: ' . $session->message }++
		  if $session->error && !($crashes && ($session->sqlstate =~ $ended || $session->sqlstate eq '55000'));
		$session->close if $session->error && $crashes;
		usleep(rand 20000);
	}
	add_line($file, 'count', $_, $count{$_}) for keys %count;
	add_line($file, 'wrong', $_, $wrong{$_}) for keys %wrong;
	return;
}

# Comes, looks and leaves, sometimes with a temporary table, sometimes without a word.
sub visit
{
	my ($db, $file, $end, $crashes) = @_;
	my (%count, %wrong);
	while (time < $end)
	{
		my $visitor = $node->connect_to($db);
		my @statements = ('SELECT (SELECT count(*) FROM t1) - (SELECT count(*) FROM t2)');
		push @statements, 'CREATE TEMPORARY TABLE mine AS SELECT 1 AS i' if rand() < 0.1;
		for (@statements)
		{
			my $n = $visitor->error ? undef : $visitor->query($_);
			$wrong{"t1 and t2 differ by $n"}++ if $n;
			last if $visitor->error;
		}
		$count{visits}++ unless $visitor->error;
		$wrong{ 'visit: ' . $visitor->message }++
		  if $visitor->error && !($visitor->sqlstate =~ $ended && $visitor->message !~ /no answer/);
		rand() < 0.7 ? $visitor->close : $visitor->{open} && $visitor->{socket}->close;
		usleep(rand 5000);
	}
	add_line($file, 'count', $_, $count{$_}) for keys %count;
	add_line($file, 'wrong', $_, $wrong{$_}) for keys %wrong;
	return;
}

# Runs all of them for a while, and tests that nothing was wrong. The function is called meanwhile.
sub run_children
{
	my ($title, $length, $strict, $crashes, $meanwhile) = @_;
	my $end = time + $length;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $nfiles = 0;
	my @children;
	my $add = sub {
		my ($function, @args) = @_;
		my $file = "$dir/" . $nfiles++;
		push @children, in_child(sub { srand $seed + $nfiles; $function->(@args, $file, $end, $crashes) });
	};
	if ($strict)
	{
		$add->(\&be_strict, $_) for @clones;
	}
	$add->(\&work, $_, $shared) for 1 .. $nworkers;
	$add->(\&rewind_often, $shared) for 1 .. 2;
	$add->(\&visit, $shared);
	$meanwhile->($end) if $meanwhile;
	my $failed = 0;
	for (@children) { waitpid $_, 0; $failed++ if $? }
	is($failed, 0, "$title: everybody has come to the end");
	my (%count, @wrong);

	for my $line (lines_of(map { "$dir/$_" } 0 .. $nfiles - 1))
	{
		$line->[1] eq 'count' ? $count{ $line->[2] } += $line->[3] : push @wrong, "$line->[2] ($line->[3] times)";
	}
	note "$title: " . join ', ', map { "$count{$_} $_" } sort keys %count;
	is(join("\n", @wrong[ 0 .. ($#wrong > 30 ? 30 : $#wrong) ]), '', "$title: nothing went wrong");
	return \%count;
}

# Tests that heaps and indexes of a database are sound.
sub is_sound
{
	my ($db, $title) = @_;
  SKIP: { skip 'PostgreSQL has no amcheck', 2 unless $amcheck }
	return unless $amcheck;
	my $client = $node->session($db);
	is( $client->query(
			q{SELECT count(bt_index_check(indexrelid, true)) > 0
		FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam
		WHERE amname = 'btree' AND indisvalid AND indisready}),
		't',
		"$title: indexes") or diag $client->message;
	is( $client->query(q{SELECT count(*) FROM pg_class, verify_heapam(pg_class.oid) WHERE relkind IN ('r', 'm', 't')}),
		'0', "$title: tables") or diag $client->message;
	$client->close;
	return;
}

# Tests that, and then that each of them can be rewound once more, to exactly what the template is.
sub are_sound
{
	my ($title) = @_;
	for my $db (@clones, $shared)
	{
		is_sound($db, "$title: $db");
		is($admin->query("SELECT testdb_rewind('$db')"), '', "$title: $db is rewound") or diag $admin->message;
		my $client = $node->session($db);
		is($client->query($look), $seen, "$title: $db is like the template");
		$client->close;
		is_sound($db, "$title: $db, rewound");
	}
	return;
}

# Once more if something has not had its turn, which takes longer on a machine that is busy.
my @all = qw(rewinds calls looks transactions visits);
my %counts;
for (1 .. 10)
{
	my $counts = run_children('stress', $seconds / 2, 1, 0);
	$counts{$_} += $counts->{$_} // 0 for @all;
	last unless grep { !$counts{$_} } @all;
}
cmp_ok($counts{$_}, '>', 0, "there were $_") for @all;
are_sound('stress');

is(join("\n", log_of($node)), '', 'the log is clean');

# Processes are killed meanwhile.
my $nkills = 0;
run_children(
	'crashes',
	$seconds / 2,
	0, 1,
	sub {
		my ($end) = @_;
		while (time < $end - 1)
		{
			usleep(300_000 + rand 500_000);
			my ($pattern) =
			  (qr/postgres: .*regression_shared/, qr/testdb worker/, qr/testdb worker/, qr/checkpointer/)[ rand 4 ];
			my @pids = $node->pids_by_title($pattern) or next;
			kill_pids(1, $pids[ rand @pids ]);
			$nkills++;
			poll(sub { my $client = $node->connect_to('postgres'); return !$client->error && $client->do('SELECT 1') })
			  or die 'the server does not start again';
		}
	});
cmp_ok($nkills, '>', 0, "there were crashes ($nkills)");
poll(sub { $admin = $node->connect_to('postgres'); return !$admin->error && $admin->do('SELECT 1') });
look_at_template(0);
are_sound('crashes');
is(join("\n", log_of($node)), '', 'the log is still clean');
done_testing();

# Lines of the server's log that nothing here explains. A parallel query that is killed may just have removed its shared memory
# (dsm.c); the restart then finds it gone.
sub log_of
{
	my ($server) = @_;
	return grep {
		/PANIC|TRAP|could not|unexpected|invalid page|corrupt|cache lookup failed|XX000/
		  && !
		  /could not (?:send|receive) data|could not serialize|unexpected pageaddr|could not remove shared memory segment/
	  }
	  split /\n/, $server->log_text(0);
}
