
# Kills processes of the server with signal 9 at random moments, while clients clone, write and drop, and looks at what is
# there when the server has come up again.
#
#   TESTDB_CRASH_ROUNDS   how many rounds, spread over the variants below: 20, or 4 in a short run
#   TESTDB_CRASH_SEED     repeats the choices of another run (not its timing)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Fcntl qw(O_APPEND O_CREAT O_WRONLY);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCrash;
use TestdbTest;
use Time::HiRes qw(time usleep);

my $rounds = how_much('TESTDB_CRASH_ROUNDS', 4, 20);
my $seed = $ENV{TESTDB_CRASH_SEED} || int(time * 1000) % 1_000_000_000;
my $clients = 8;
my $amcheck = has_contrib('amcheck');

# One at a time, so that each round belongs to one. synchronous_commit is as a user may have it; what the client of a
# clone loses by it is some of its last commits, never the clone.
my @variants;
for my $wal_level ('minimal', 'replica')
{
	for my $page_writes ('on', 'off')
	{
		push @variants, [ $wal_level, $page_writes, 'off', 'on' ], [ $wal_level, $page_writes, 'on', 'off' ];
	}
}
# What is recycled natively is what is new: it gets two thirds of the rounds.
my @order = ((grep { $_->[0] eq 'minimal' } @variants) x 2, grep { $_->[0] ne 'minimal' } @variants);

note "TESTDB_CRASH_ROUNDS=$rounds TESTDB_CRASH_SEED=$seed";
srand $seed;

my $journals = PostgreSQL::Test::Utils::tempdir;
my $nserved = 0;

# One line of a client's journal. It goes to the operating system at once, which does not crash.
sub note_down
{
	my ($journal, @words) = @_;
	syswrite $journal, join(' ', @words) . "\n";
	return;
}

# The name of a database that CREATE DATABASE has made; undef if it has failed. Nothing of what is done here is passed on to
# PostgreSQL, unless a worker ends with the postmaster.
sub create_served
{
	my ($admin, $journal) = @_;
	my $name = "regression_served_${$}_" . ++$nserved;
	note_down($journal, 'trying', $name);
	return undef unless $admin->do("CREATE DATABASE $name TEMPLATE $template");
	note_down($journal, 'handed', $name);
	my $served = $admin->query("SELECT count(*) FROM testdb_clones WHERE name = '$name'");
	return $name if $served;
	my $reason = $admin->query("SELECT passed_on_reason FROM testdb_templates WHERE template = '$template'") // '';
	die "$name was passed on: $reason\n" unless $admin->error || $reason =~ /worker ended before it had finished/;
	note_down($journal, 'unsure', $name);
	return undef;
}

# One life of a clone. False if the session is lost; dies on anything that must not happen.
sub one_cycle
{
	my ($admin, $journal, $kept) = @_;
	my $before = newest_counter();
	my $name = rand() < 0.3 ? create_served($admin, $journal) : $admin->query("SELECT testdb_clone('$template')");
	return lost($admin, 'testdb_clone') unless defined $name;
	note_down($journal, 'handed', $name) unless $name =~ /_served_/;

	my $client = try_session($name);
	return lost($client, "connecting to $name") if $client->error;
	my $state = $client->query(
		q{
		SELECT (SELECT count(*) FROM ledger),
			(SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM base),
			(SELECT value FROM counter)});
	return lost($client, "looking at $name") unless defined $state;
	my ($nledger, $checksum, $counter) = split /\|/, $state;
	die "clone $name has $nledger rows of another life\n" if $nledger != 0;
	die "clone $name has a wrong table\n" if $checksum ne $base_checksum;
	die "clone $name has counter $counter, older than $before\n" if $counter < $before;

	for my $i (1 .. 1 + int rand 4)
	{
		note_down($journal, 'attempt', $name, $i);
		$client->do("INSERT INTO ledger VALUES ($i, repeat('l', 300))")
		  or return lost($client, 'INSERT');
		note_down($journal, 'acked', $name, $i);
	}
	my @kinds = (
		'UPDATE pad SET t = t || i WHERE i % 3 = 0',
		'VACUUM FULL pad',
		'VACUUM FULL pg_class',
		'CREATE TABLE made AS SELECT * FROM pad; CREATE INDEX ON made (i)',
		'DROP TABLE pad',
		'TRUNCATE pad',
		'REINDEX TABLE pg_attribute',
		'INSERT INTO pad SELECT i, i FROM generate_series(5000, 7000) i',
		'CHECKPOINT',
		'SELECT 1');
	my $sql = $kinds[ rand @kinds ];
	$client->do($sql) or return lost($client, $sql);
	$client->close if rand() < 0.5;

	push @$kept, $name;
	while (@$kept > 0 && (@$kept > 1 || rand() < 0.8))
	{
		my $old = shift @$kept;
		note_down($journal, 'dropping', $old);
		my $drop =
		  $old =~ /_served_/ && rand() < 0.8 ? "DROP DATABASE $old WITH (FORCE)" : "SELECT testdb_drop('$old')";
		return lost($admin, $drop) unless $admin->do($drop);
		note_down($journal, 'dropped', $old);
	}
	return 1;
}

# False if an error is one of those that a crash brings; dies if it is not.
sub lost
{
	my ($client, $what) = @_;
	return 0 if $client->sqlstate =~ /^(57P0[123]|08...)$/;
	# What the worker that was killed was at.
	return 0 if $client->message =~ /worker ended before it had finished/;
	die "$what: " . $client->message . "\n";
}

# What a client's process does until the server goes.
sub client_main
{
	my ($path) = @_;
	sysopen my $journal, $path, O_WRONLY | O_APPEND | O_CREAT or POSIX::_exit(1);
	my $admin = try_session('postgres');
	my @kept;
	eval {
		$admin->do('SET testdb.serve_create_database = on');
		1 while !$admin->error && one_cycle($admin, $journal, \@kept);
		1;
	} or note_down($journal, 'bad', $@ =~ s/\s+/ /gr);
	POSIX::_exit(0);
}

# Another one commits in the template now and then, in every way, so that snapshots are refreshed and spares are behind.
sub writer_main
{
	my ($path) = @_;
	sysopen my $journal, $path, O_WRONLY | O_APPEND | O_CREAT or POSIX::_exit(1);
	my @also = (
		'SELECT 1', 'SELECT 1', 'VACUUM base',
		'VACUUM FULL base',
		'CREATE INDEX ON base (t)',
		'CREATE TABLE grown AS SELECT * FROM base; DROP TABLE grown',
		'VACUUM FULL pg_class',
		'VACUUM (FREEZE) pad');
	for (;;)
	{
		usleep(20_000 + rand 100_000);
		my $client = try_session($template);
		last if $client->error;
		my $value = $client->query('UPDATE counter SET value = value + 1 RETURNING value');
		last unless defined $value;
		if (open my $out, '>', "$newest.new")
		{
			print $out $value;
			close $out;
			rename "$newest.new", $newest;
		}
		$client->do($also[ rand @also ]);
		last unless $client->is_open;
		$client->close;
	}
	POSIX::_exit(0);
}

# Picks a process and kills it; its kind. The server restarts by itself, unless it was the postmaster.
sub kill_something
{
	my ($admin) = @_;
	my @kinds = ('testdb worker', 'testdb worker', 'client backend', 'checkpointer', 'postmaster', 'postmaster');
	my $kind = $kinds[ rand @kinds ];

	if ($kind eq 'postmaster')
	{
		# All at once, or each notices by itself.
		my $together = rand() < 0.5;
		$together        ? $node->kill_everything(!$full_page_writes) : $node->kill_postmaster(!$full_page_writes);
		return $together ? 'all processes'                            : 'postmaster';
	}
	# It may end by itself in this very instant; then another one is taken.
	for (1 .. 20)
	{
		my $pid = $admin->query(
			qq{
			SELECT pid FROM pg_stat_activity
			WHERE backend_type = '$kind' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
		return $kind unless $admin->is_open;
		next unless $pid && kill_pids(!$full_page_writes, $pid);
		# Until the postmaster has noticed and ended all sessions.
		return $kind if poll(sub { !$admin->do('SELECT 1') }, 5);
	}
	die "no $kind could be killed";
}

# Reads the journals of a round into %known; the clones whose drop was asked for and not answered.
sub read_journals
{
	my %dropping;
	my @bad;
	for my $path (glob "$journals/*.journal")
	{
		open my $in, '<', $path or next;
		while (my $line = <$in>)
		{
			chomp $line;
			my ($word, $name, $n) = split / /, $line;
			if ($word eq 'trying')
			{
				$tried{$name} = 1;
			}
			elsif ($word eq 'handed')
			{
				push @bad, "$name was handed out twice" if exists $known{$name};
				$known{$name} = { attempt => 0, acked => 0 };
				$seen{clones}++;
				$seen{served}++ if delete $tried{$name};
			}
			elsif ($word eq 'attempt' || $word eq 'acked') { $known{$name}{$word} = $n }
			elsif ($word eq 'unsure')                      { $known{$name}{unsure} = 1 }
			elsif ($word eq 'dropping')                    { $dropping{$name} = 1 }
			elsif ($word eq 'dropped')
			{
				delete $dropping{$name};
				$known{$name}{gone} = 1;
				$seen{drops}++;
			}
			else { push @bad, substr $line, 4 }
		}
		close $in;
		unlink $path;
	}
	return (\%dropping, @bad);
}

# One round: work, a kill, a restart, and the checks.
sub one_round
{
	my ($number, $variant) = @_;
	my $sync = $variant->[3];
	my @pids;
	my $admin = try_session('postgres');

	# Cluster.pm of newer majors dies of it, so that a child would stop the server.
	local $SIG{TERM} = 'DEFAULT';
	for my $i (0 .. $clients)
	{
		my $child_seed = int rand 1_000_000_000;
		my $pid = fork // die "fork: $!";
		push @pids, $pid and next if $pid;
		srand $child_seed;
		$i < $clients
		  ? client_main("$journals/$number.$i.journal")
		  : writer_main("$journals/$number.$i.journal");
	}
	usleep(100_000 + rand 700_000);
	my $killed = kill_something($admin);
	# The writer would go on with the new server; a client ends with its session. By KILL: what handles TERM stops the server.
	kill 'KILL', $pids[-1];
	waitpid $_, 0 for @pids;
	$seen{killed}{$killed}++;

	$killed =~ /postmaster|all/ ? $node->start : $node->wait_until_up;
	my @wrong;
	my ($dropping, @bad) = read_journals();
	push @wrong, @bad, check_all($dropping, $sync, $killed =~ /postmaster|all/);
	push @wrong, map { "log: $_" } complaints();
	ok(!@wrong, "round $number: $killed killed")
	  or diag "wal_level, full_page_writes, fsync, synchronous_commit: @$variant\n" . join "\n", @wrong;
	return;
}

# A check that can't fail is none: a database with a lease that nobody asked for, one without a directory.
sub prove_checks
{
	my $admin = try_session('postgres');
	my $name = $admin->query("SELECT testdb_clone('$template')");
	$known{$name} = { attempt => 3, acked => 3 };
	$known{regression_never} = { attempt => 0, acked => 0 };
	mkdir $node->data_dir . '/base/999999';
	my $wrong = join "\n", check_all({}, 'on');
	like($wrong, qr/$name: 0 rows, 3 were committed/, 'a lost commit is seen');
	like($wrong, qr/regression_never was handed out, and is lost/, 'a lost clone is seen');
	like($wrong, qr/directories in base: .*999999/, 'an orphan directory is seen');
	return;
}

# What pg_checksums finds in the stopped server's files.  Two things that a kill leaves, with or without testdb, make it give up,
# where PostgreSQL overwrites them the next time: the file that was to become a new map, of a VACUUM FULL of a mapped catalog
# (relmapper.c, RELMAPPER_TEMP_FILENAME, since 16); and half a page at a file's end, since a write to a file on tmpfs can be
# cut after 4 kB (md.c does not count it as a page).
sub check_checksums
{
	my ($when) = @_;
	unlink glob $node->data_dir . '/base/*/pg_filenode.map.tmp';
	for my $file (grep { m{/\d+(_\w+)?(\.\d+)?$} && (-s $_) % 8192 } glob $node->data_dir . '/base/*/*')
	{
		truncate($file, (-s $file) - (-s $file) % 8192) or die "$file: $!";
	}
	my ($out, $err) = run_command([ $node->installed_command('pg_checksums'), '--check', '-D', $node->data_dir ]);
	like($out, qr/Bad checksums:  0$/m, "pg_checksums finds nothing $when") or diag $out, $err;
	return;
}

# Runs some rounds on the current cluster, changing the variant after every few.
sub run_rounds
{
	my ($first, $last, $checksums) = @_;
	my $per_variant = int(($last - $first) / @order) + 1;
	for my $number ($first .. $last)
	{
		my $i = $number - $first;
		my $variant = $order[ ($i / $per_variant) % @order ];
		if ($i % $per_variant == 0)
		{
			my $status = $node->stop;
			is($status, 1, 'a fast shutdown succeeds');
			check_checksums('between two variants') if $checksums;
			set_variant($variant);
			$node->start;
			complaints();
		}
		one_round($number, $variant);
	}
	my $status = $node->stop;
	is($status, 1, 'the last shutdown succeeds');
	check_checksums('at the end') if $checksums;
	return;
}

my $plain = int($rounds * 0.6 + 0.5) || 1;
new_cluster('plain');
prove_checks();
run_rounds(1, $plain, 0);
if ($rounds > $plain)
{
	new_cluster('checksums', '-k');
	run_rounds($plain + 1, $rounds, 1);
}

note join ', ', map { "$_ killed: $seen{killed}{$_}" } sort keys %{ $seen{killed} };
note
  "$seen{clones} clones handed out, $seen{served} by CREATE DATABASE, $seen{by_core} by PostgreSQL, $seen{drops} dropped, $seen{dropping} drops interrupted, $seen{survivors} survivors checked, $seen{free} names tried again";
cmp_ok($seen{clones}, '>', 5 * $rounds, 'the clients had something to do');
cmp_ok($seen{served}, '>', $rounds, 'also by CREATE DATABASE');
cmp_ok($seen{survivors}, '>', $rounds / 2, 'and there was something to look at');
SKIP:
{
	skip 'PostgreSQL has no amcheck', 1 unless $amcheck;
	cmp_ok($seen{amcheck}, '>', 0, 'also for pg_amcheck');
}
done_testing();
