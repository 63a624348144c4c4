
# Many clients do everything at once, at random, for a while; then all must add up: leases, databases, directories, what
# is in shared memory, and what the workers hold.
#
#   TESTDB_SOAK_SECONDS   how long: 10, or 6 in a short run, which is enough for every kind of call; 0: not at all
#   TESTDB_SOAK_SEED      repeats the choices of another run (not its timing)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX qw(_exit);
use PostgreSQL::Test::Utils;
use Test::More;

use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time usleep);

my $seconds = how_much('TESTDB_SOAK_SECONDS', 6, 10);
plan skip_all => 'TESTDB_SOAK_SECONDS is 0' unless $seconds;
my $seed = $ENV{TESTDB_SOAK_SEED} || int(time * 1000) % 1_000_000_000;
my $nclients = 16;
my @templates = map { "regression_template_$_" } 1 .. 3;
my @roles = ('regress_soak_1', 'regress_soak_2');

note "TESTDB_SOAK_SECONDS=$seconds TESTDB_SOAK_SEED=$seed";

my $node = TestdbCluster->new_server(
	'main', q{
max_connections = 80
max_prepared_transactions = 20
testdb.max_clones = 100
testdb.spares = 3
testdb.timeout = 20s
testdb.template_timeout = 3s
});
my $data = $node->data_dir;
my $admin = $node->connect_to('postgres');
run($admin, $_)
  for map({ ("CREATE ROLE $_ LOGIN CREATEDB", "ALTER ROLE $_ SET testdb.serve_create_database = on") } @roles),
  map({ "CREATE DATABASE $_ IS_TEMPLATE true" } @templates),
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_reset, testdb_keep, testdb_prewarm TO '
  . join(', ', @roles);
for my $template (@templates)
{
	my $client = $node->connect_to($template);
	run($client, 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS n; GRANT ALL ON t TO PUBLIC;
		CREATE TABLE version AS SELECT 1 AS v; GRANT SELECT ON version TO PUBLIC; GRANT CREATE ON SCHEMA public TO PUBLIC');
	$client->close;
}
run($admin, q{CREATE FUNCTION regress_audit() RETURNS text AS 'testdb', 'testdb_audit' LANGUAGE C});

# Errors that a client may get, because others meddle with what it uses.
my %allowed = map { $_ => 1 } (
	'3D000',             # it has been dropped
	'42809',             # it has been dropped, and recycled under another name
	'55006',             # it is being dropped, or the template is in use
	'53400',             # too many
	'57P01',             # the session, or the worker, has been ended
	'57014',             # a worker has been cancelled
	'08006', '08003',    # lost
	'55000');    # the template was changed in the meantime, or it is a spare by now

# One client, in a process of its own; what goes wrong goes into the file.
sub client
{
	my ($number, $file, $end) = @_;
	srand $seed + $number;
	my $role = $roles[ $number % @roles ];
	my (@mine, %count, %wrong, $session);
	my $check = sub {
		my ($who, $what) = @_;
		$count{$what}++;
		# That nobody answers is told by the same SQLSTATE as a lost connection.
		$wrong{ "$what: " . $who->told }++
		  if $who->error && (!$allowed{ $who->sqlstate } || $who->message =~ /no answer/);
		return !$who->error;
	};
	while (time < $end)
	{
		unless ($session && $session->is_open)
		{
			$session = $node->connect_to('postgres', user => $role, timeout => 40);
			next unless $check->($session, 'connect');
		}
		my $template = $templates[ rand @templates ];
		my $name = @mine ? $mine[ rand @mine ] : undef;
		my $dice = rand 100;
		if ($dice < 30 || !$name)
		{
			my $scope = rand() < 0.3 ? 'session' : 'manual';
			my $life = rand() < 0.3 ? q{'1 second'} : 'NULL';
			my $given = rand() < 0.3 ? "'regression_${number}_" . int(rand 1e9) . q{'} : 'NULL';
			my $new = $session->query("SELECT testdb_clone('$template', $given, '$scope', $life, 'client $number')");
			next unless $check->($session, 'clone');
			push @mine, $new;
			$count{session_scope}++ if $scope eq 'session';
			$count{lifetime}++ if $life ne 'NULL';
		}
		elsif ($dice < 36)
		{
			my $new = "regression_${number}_served_" . int rand 1e9;
			$session->do("CREATE DATABASE $new TEMPLATE $template");
			push @mine, $new if $check->($session, 'create');
		}
		elsif ($dice < 60)
		{
			my $user = $node->connect_to($name, user => $role, timeout => 40);
			# A new clone has what the template has, whichever version of that.
			my $n = $user->error ? undef : $user->query('SELECT count(*) FROM t');
			$check->($user, 'use');
			$wrong{"$name has $n rows"}++ if defined $n && $n < 1000;
			$user->do('INSERT INTO t VALUES (0); CREATE TABLE IF NOT EXISTS mine (a int); SELECT 1') if $user->is_open;
			rand() < 0.5 ? $user->close : $user->vanish;
		}
		elsif ($dice < 75)
		{
			my $served = $name =~ /_served_/ && rand() < 0.8;
			$session->do($served ? "DROP DATABASE IF EXISTS $name WITH (FORCE)" : "SELECT testdb_drop('$name', true)");
			@mine = grep { $_ ne $name } @mine if $check->($session, $served ? 'drop_served' : 'drop');
		}
		elsif ($dice < 83)
		{
			$session->do("SELECT testdb_reset('$name')");
			$check->($session, 'reset');
		}
		elsif ($dice < 89)
		{
			$session->do("SELECT testdb_keep('$name', '" . (1 + int rand 2) . q{ seconds')});
			$check->($session, 'keep');
		}
		elsif ($dice < 92)
		{
			# The client goes in the middle of a call.
			$session->send("SELECT testdb_clone('$template', NULL, 'session')");
			usleep(rand 5000);
			$session->vanish;
			$count{vanish}++;
		}
		elsif ($dice < 94)
		{
			$session->do("SELECT pg_terminate_backend(pg_backend_pid())");
			$count{terminate}++;
			$session->close;
		}
		elsif ($dice < 96)
		{
			# PostgreSQL could not drop it.
			next if $name =~ /_served_/;
			my $user = $node->connect_to($name, user => $role, timeout => 40);
			$user->do("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p$number" . rand() . q{'})
			  unless $user->error;
			$count{prepare}++;
			$user->close;
		}
		elsif ($dice < 98)
		{
			$session->do("SELECT testdb_drop_all('$template', 'client $number')");
			$check->($session, 'drop_all');
		}
		else
		{
			$session->close;
		}
		@mine = @mine[ -5 .. -1 ] if @mine > 5;
	}
	open my $out, '>', $file or _exit(1);
	print $out map({ "wrong $wrong{$_} x $_\n" } sort keys %wrong), map { "count $_ $count{$_}\n" } sort keys %count;
	close $out;
	return;
}

# The administrator: changes templates, ends workers, cancels them.
sub meddle
{
	my ($end) = @_;
	srand $seed;
	my %count;
	my $next_kill = 0;
	while (time < $end)
	{
		my $template = $templates[ rand @templates ];
		my $client = $node->connect_to($template);
		$client->do('UPDATE version SET v = v + 1; INSERT INTO t VALUES (0)') and $count{change}++
		  unless $client->error;
		$client->close;
		if (time > $next_kill)
		{
			my @pids = $node->worker_pids;
			my $how = !$next_kill || rand() < 0.7 ? 'pg_terminate_backend' : 'pg_cancel_backend';
			run($admin, "SELECT $how($pids[rand @pids])") if @pids;
			$count{$how}++;
			$next_kill = time + 0.5 + rand 1.5;
		}

		# Sessions in the middle of a call.
		for (1 .. 10)
		{
			my $act = rand() < 0.5 ? 'pg_terminate_backend' : 'pg_cancel_backend';
			$count{interrupt} += run(
				$admin, qq{
				SELECT count($act(pid)) FROM (SELECT pid FROM pg_stat_activity
					WHERE backend_type = 'client backend' AND wait_event_type = 'Extension' ORDER BY random() LIMIT 2) s});
			usleep(10_000 + rand 40_000);
		}
	}
	return %count;
}

# Drops what CREATE DATABASE has made and testdb does not know, because it was passed on to PostgreSQL, or let go since.
sub drop_ordinary
{
	my $ordinary = q{
		SELECT datname FROM pg_database WHERE datname LIKE 'regression%served%' AND oid NOT IN (SELECT oid FROM testdb_clones())};
	poll(
		sub {
			$admin->do("DROP DATABASE IF EXISTS $_ WITH (FORCE)") for split /\n/, run($admin, $ordinary);
			return run($admin, $ordinary) eq '';
		}) or die 'databases of PostgreSQL stay';
	return;
}

# Runs all of it for so many seconds; what happened how often.
sub soak
{
	my ($length) = @_;
	$seed += 1000;
	my $end = time + $length;
	my %files = map { $_ => $node->basedir . "/client_$_" } 1 .. $nclients;
	my @pids;
	for my $number (1 .. $nclients)
	{
		my $pid = fork // die "fork: $!";
		if ($pid == 0)
		{
			eval { client($number, $files{$number}, $end); 1 }
			  or append_to_file($files{$number}, "wrong 1 x died: $@\n");
			_exit(0);
		}
		push @pids, $pid;
	}
	my %count = meddle($end);
	waitpid $_, 0 for @pids;
	drop_ordinary();
	for my $file (values %files)
	{
		my $text = -e $file ? slurp_file($file) : "wrong 1 x a client has left nothing\n";
		unlink $file;
		$count{$1} += $2 while $text =~ /^count (\w+) (\d+)$/mg;
		$count{wrong} = ($count{wrong} // '') . $1 while $text =~ /^wrong (.*\n(?:(?!wrong |count ).*\n)*)/mg;
	}
	return %count;
}

# What each worker holds: open files, and memory in its contexts, in bytes.
sub held
{
	my %held;
	my $own = run($admin, q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
	for my $pid ($node->worker_pids)
	{
		my $offset = -s $node->logfile;
		my $memory;
		run($admin, "SELECT pg_log_backend_memory_contexts($pid)");
		poll(sub { ($memory) = slurp_file($node->logfile, $offset) =~ /\[$pid\].* Grand total: .* (\d+) used/ })
		  or die "worker $pid does not tell its memory";
		# Not what the server has open of catalogs and WAL: that comes and goes.
		my @files =
		  grep { !m{^\Q$data\E/(?:global/|base/$own/|pg_(?!testdb/))} } map { readlink // () } glob "/proc/$pid/fd/*";
		$held{$pid} = { memory => $memory, files => scalar @files, names => join(' ', sort @files) };
	}
	return %held;
}

# Lives of clones, by all ways through a worker; four at a time, so that each worker has its share.
sub lives
{
	my ($rounds) = @_;
	my @clients = map { $node->connect_to('postgres') } 1 .. 4;
	my $all = sub {
		my ($sql) = @_;
		$clients[$_]->send($sql->($_)) for 0 .. $#clients;
		return map { my $result = $_->result; die $_->told if $_->error; $result->{rows}[0][0] } @clients;
	};
	for my $i (1 .. $rounds)
	{
		my $template = $templates[ $i % @templates ];
		my @names =
		  $all->(sub { "SELECT testdb_clone('$template'" . ($i % 2 ? '' : ", 'regression_life_${i}_$_[0]'") . ')' });
		for my $name (@names)
		{
			my $client = $node->connect_to($name);
			run($client, 'INSERT INTO t VALUES (0); CREATE TABLE mine (a int)');
			$client->close;
		}
		$all->(sub { "SELECT testdb_reset('$names[$_[0]]')" }) if $i % 5 == 0;
		$all->(sub { "SELECT testdb_keep('$names[$_[0]]', '1 hour')" }) if $i % 5 == 1;
		$all->(sub { "SELECT testdb_drop('$names[$_[0]]')" });
	}
	$_->close for @clients;
	poll(sub { is_idle($admin) }, 20);
	return;
}

# All that must be equal, as texts: what is off is found by name.
sub books
{
	my %books;
	my $numbers = sub {
		return join ' ', sort { $a <=> $b } @_;
	};
	my $oids = sub { return $numbers->(split /\n/, run($admin, $_[0])) };
	my $known = $oids->('SELECT oid FROM testdb_clones()');
	$books{'leases'} = [ $numbers->(map { m{/(\d+)$} } glob("$data/pg_testdb/clones/*")), $known ];
	$books{'databases'} = [
		$oids->(
			"SELECT oid FROM pg_database WHERE datname ~ '^regression_' AND datname NOT IN ('"
			  . join("', '", @templates) . q{')}),
		$known
	];
	$books{'directories'} =
	  [ $numbers->(map { m{/(\d+)$} } glob("$data/base/*")), $oids->('SELECT oid FROM pg_database') ];
	my %template = map { $_ => 1 } split /\n/, run($admin, 'SELECT oid FROM testdb_templates()');
	$books{'snapshots'} =
	  [ join(' ', grep { !$template{$_} } map { m{/(\d+)$} } glob("$data/pg_testdb/snapshots/*")), '' ];
	my $audit = run($admin, 'SELECT regress_audit()');
	$books{'places in shared memory'} =
	  [ join(', ', grep { !/^(requests|lost|waiting) 0$/ && !/ (\d+)=\1$/ } $audit =~ /(\w+ [\d=]+)/g), '' ];
	$books{'states'} =
	  [ run($admin, q{SELECT DISTINCT state FROM testdb_clones() WHERE state NOT IN ('leased', 'spare')}), '' ];
	$books{'counters'} = [
		run($admin,
			q{SELECT coalesce(sum(clones), 0), coalesce(sum(spares), 0), coalesce(sum(recycling), 0) FROM testdb_templates}
		),
		run($admin,
			q{SELECT count(*) FILTER (WHERE state = 'leased'), count(*) FILTER (WHERE state = 'spare'), 0 FROM testdb_clones()}
		)
	];
	$books{'session scope'} = [
		run($admin,
			q{SELECT name FROM testdb_clones WHERE session_pid IS NOT NULL AND session_pid NOT IN (SELECT pid FROM pg_stat_activity)}
		),
		''
	];
	$books{'expiry'} =
	  [ run($admin, q{SELECT name FROM testdb_clones WHERE expires_at < now() - interval '1 second'}), '' ];
	$books{'invalid'} = [ run($admin, q{SELECT datname FROM pg_database WHERE datconnlimit = -2}), '' ];
	$books{'owners'} = [
		run($admin, q{SELECT datname FROM pg_database d WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = datdba)}), ''
	];
	$books{'prepared transactions'} =
	  [ run($admin, q{SELECT gid FROM pg_prepared_xacts WHERE database NOT IN (SELECT name FROM testdb_clones)}), '' ];
	return %books;
}

# Waits until all is done that is to be done, and tests that everything adds up.
sub adds_up
{
	my ($title) = @_;
	my %books;
	poll(
		sub {
			return 0 unless is_idle($admin);
			%books = books();
			return !grep { $_->[0] ne $_->[1] } values %books;
		},
		20);
	is($books{$_}[0], $books{$_}[1], "$title: $_ add up") for sort keys %books;
	return;
}

# One short round first, since the beginning is another situation.
my %first = soak(1 + $seconds / 5);
my %count = soak($seconds);

# Some things are rare, so there is more if need be.
my @kinds =
  qw(clone create drop_served session_scope lifetime use drop reset keep drop_all prepare vanish terminate change interrupt pg_terminate_backend);
for (1 .. 5)
{
	last unless grep { !$count{$_} } @kinds;
	my %more = soak($seconds);
	$count{wrong} = ($count{wrong} // '') . (delete $more{wrong} // '');
	$count{$_} += $more{$_} for keys %more;
}
note join ', ', map { "$_ $count{$_}" } grep { $_ ne 'wrong' } sort keys %count;
is(($first{wrong} // '') . ($count{wrong} // ''), '', 'no error but those that are to be expected');
ok($count{$_}, "there was some of: $_") for @kinds;
cmp_ok(run($admin, 'SELECT sum(reaped) FROM testdb_stats'), '>', 0, 'there was some of: expiry');
adds_up('after the soak');

# Nobody waits for anything: all places for requests are free, and answers come at once.
is( run($admin,
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND backend_type = 'client backend'}
	),
	0,
	'no session waits');
{
	my @clients = map { $node->connect_to('postgres', user => $roles[ $_ % @roles ]) } 1 .. 40;
	run($admin, "SELECT testdb_drop('$_', true)") for split /\n/, run($admin, 'SELECT name FROM testdb_clones');
	poll(sub { is_idle($admin) });
	my $start = time;
	$_->send("SELECT testdb_drop(testdb_clone('$templates[0]'))") for @clients;
	is( join(' ', map { $_->result->{rows}[0][0] // $_->told } @clients),
		join(' ', ('t') x @clients),
		'forty at once are served');
	ok(time - $start < 10, 'and fast');
	$_->close for @clients;
	$start = time;
	run($admin, "SELECT testdb_drop(testdb_clone('$templates[0]'))");
	ok(time - $start < 10, 'one by itself, too');
}
is(run($admin, 'SELECT count(*) FROM testdb_clones'), 0, 'all can be dropped');
adds_up('when all have been dropped');

# Each template still is what clones are made of.
for my $template (@templates)
{
	my $name = run($admin, "SELECT testdb_clone('$template')");
	my @versions = map {
		my $client = $node->connect_to($_);
		my $v = run($client, 'SELECT v, (SELECT count(*) FROM t) FROM version');
		$client->close;
		$v
	} $template, $name;
	is($versions[1], $versions[0], "a clone of $template has its last version");
	run($admin, "SELECT testdb_drop('$name')");
}

# What the workers hold does not grow with the number of lives.
lives(15);
my %before = held();
lives(30);
my %after = held();
is(join(' ', sort keys %after), join(' ', sort keys %before), 'no worker has ended by itself');
for my $pid (sort keys %after)
{
	cmp_ok(
		$after{$pid}{files},
		'<=',
		$before{$pid}{files} + 2,
		"files that worker $pid holds: $before{$pid}{files}, $after{$pid}{files}"
	) or diag "before: $before{$pid}{names}\nafter: $after{$pid}{names}";
	cmp_ok(
		$after{$pid}{memory},
		'<=',
		$before{$pid}{memory} + 32768,
		"memory that worker $pid holds: $before{$pid}{memory}, $after{$pid}{memory}");
}
adds_up('after some more lives');

# With the templates all goes.
$admin->do('SELECT testdb_drop_all()');
run($admin, "ALTER DATABASE $_ IS_TEMPLATE false") for @templates;
run($admin, "DROP DATABASE $_")                    for @templates;
run($admin, "DROP OWNED BY $_; DROP ROLE $_")      for @roles;
ok(poll(sub { is_idle($admin) && run($admin, 'SELECT count(*) FROM testdb_clones()') == 0 }),
	'nothing is left when the templates have gone');
is(run($admin, 'SELECT coalesce(sum(clones + spares + recycling), 0) FROM testdb_templates()'),
	0, 'no template has any');
is(join(' ', glob("$data/pg_testdb/clones/*")), '', 'no lease is left');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|signal (6|11)|terminating any other active/, 'no process has crashed');
# A worker that was canceled by the above says what it could not do, and does it later.
my @trouble =
  grep { !/: canceling statement due to user request$/ }
  $log =~
  /(?:WARNING|LOG):  ((?:could not (?:recycle|remove|drop|reclaim)|error in testdb worker|some useless files|.*(?:still active|leak)).*)/g;
is(join("\n", @trouble), '', 'no trouble in the log');
$node->stop;
done_testing();
