
# Under fire: eight sessions clone without pause while another one changes the template in one way after the other. No clone
# may be older than what was committed before its call began.
#
#   TESTDB_FIRE_SECONDS   how long each way lasts: 2, or 1 in a short run

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time usleep);

my $seconds = how_much('TESTDB_FIRE_SECONDS', 1, 2);
my $clients = 8;
my $template = 'regression_template';

my $node = TestdbCluster->new_server(
	'fire', q{
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 2
testdb.spares = 4
});
my $admin = $node->connect_to('postgres');

# Each way of changing has a number that it raises, at which clones look.
my @shown = qw(counter ddl sequence truncated);
my $look = q{SELECT (SELECT value FROM counter), (SELECT value FROM ddl), (SELECT last_value FROM sequence),
	(SELECT value FROM truncated)};

# How often a transaction is begun, in us, and what is done in it; %d is the next number. One that is 'left' counts when
# the session has left the template, since it has no transaction ID; the others when they are committed.
my @ways = (
	{ name => 'a commit every 50 ms', pause => 50_000, shown => 0, sql => ['UPDATE counter SET value = %d'] },
	{ name => 'a commit every 1 ms', pause => 1_000, shown => 0, sql => ['UPDATE counter SET value = %d'] },
	{
		name => 'DDL',
		pause => 20_000,
		shown => 1,
		sql => [ 'CREATE OR REPLACE VIEW ddl AS SELECT %d AS value', 'CREATE TABLE made_%d (i int PRIMARY KEY)' ]
	},
	{ name => 'nextval', pause => 20_000, shown => 2, left => 1, sql => [q{SELECT nextval('sequence')}] },
	{
		name => 'TRUNCATE',
		pause => 20_000,
		shown => 3,
		sql => [ 'BEGIN', 'TRUNCATE truncated', 'INSERT INTO truncated VALUES (%d)', 'COMMIT' ]
	},
	{
		name => 'COMMIT PREPARED',
		pause => 20_000,
		shown => 0,
		sql => [ 'BEGIN', 'UPDATE counter SET value = %d', q{PREPARE TRANSACTION 'fire'}, q{COMMIT PREPARED 'fire'} ]
	},
	{
		name => 'VACUUM FULL',
		pause => 20_000,
		shown => 0,
		sql => [ 'UPDATE counter SET value = %d', 'VACUUM FULL counter', 'VACUUM FULL pg_class' ]
	});

run($admin, "CREATE DATABASE $template");
{
	my $client = $node->connect_to($template);
	run($client, $_)
	  for 'CREATE TABLE counter AS SELECT 0 AS value', 'CREATE VIEW ddl AS SELECT 0 AS value',
	  q{CREATE SEQUENCE sequence; SELECT nextval('sequence')},
	  'CREATE TABLE truncated AS SELECT 0 AS value', 'CREATE TABLE pad AS SELECT i FROM generate_series(1, 5000) i';
	$client->close;
}
my $folder = PostgreSQL::Test::Utils::tempdir;
my @newest = (0, 0, 1, 0);

# What is known to be committed, for all processes. A file is replaced as a whole.
sub publish
{
	open my $out, '>', "$folder/newest.new" or die $!;
	print $out "@newest";
	close $out;
	rename "$folder/newest.new", "$folder/newest";
	return;
}

sub published
{
	open my $in, '<', "$folder/newest" or die $!;
	return split / /, <$in>;
}

# Changes the template until the time is over, and often enough; how often.
sub change
{
	my ($way, $end) = @_;
	my $n = 0;
	while (time < $end || ($n <= 2 * $seconds && time < $end + 60))
	{
		my $next = $newest[ $way->{shown} ] + 1;
		my $client = $node->connect_to($template);
		run($client, sprintf $_, $next) for @{ $way->{sql} };
		$client->close;
		poll(sub { $admin->query("SELECT count(*) FROM pg_stat_activity WHERE datname = '$template'") eq '0' })
		  if $way->{left};
		$newest[ $way->{shown} ] = $next;
		publish();
		$n++;
		usleep($way->{pause});
	}
	return $n;
}

# Clones until the time is over, and writes down what is seen.
sub look
{
	my ($number, $end) = @_;
	my $caller = $node->connect_to('postgres');
	open my $out, '>', "$folder/$number" or die $!;
	$caller->do("SET testdb.template_timeout = '60s'");
	while (time < $end)
	{
		my @least = published();
		my $name = $caller->query("SELECT testdb_clone('$template')");
		my $client = $name && $node->connect_to($name);
		my $seen = $client && $client->query($look);
		print $out defined $seen ? "got $seen|" . join('|', @least) . "\n" : 'failed ' . $caller->message . "\n";
		$client->close if $client && $number % 2;
		$caller->do("SELECT testdb_drop('$name')") or print $out 'failed ' . $caller->message . "\n" if $name;
	}
	close $out;
	return;
}

my $total = 0;
for my $way (@ways)
{
	publish();
	my $end = time + $seconds;
	my @pids;
	for my $number (1 .. $clients)
	{
		my $pid = fork // die "fork: $!";
		push @pids, $pid and next if $pid;
		eval { look($number, $end) };
		warn $@ if $@;
		POSIX::_exit($@ ? 1 : 0);
	}
	my $changes = change($way, $end);
	my $died = 0;
	for my $pid (@pids)
	{
		waitpid $pid, 0;
		$died++ if $?;
	}
	my ($clones, $equal, @old, @failed) = (0, 0);
	for my $number (1 .. $clients)
	{
		for my $line (split /\n/, slurp_file("$folder/$number"))
		{
			push @failed, $line and next unless $line =~ s/^got //;
			my @values = split /\|/, $line;
			my @seen = splice @values, 0, @shown;
			$clones++;
			push @old, "seen @seen, committed @values" if grep { $seen[$_] < $values[$_] } 0 .. $#shown;
			$equal++ if $seen[ $way->{shown} ] == $values[ $way->{shown} ];
		}
	}
	is(scalar @old, 0,
		"$way->{name}: none of $clones clones is older than the newest of $changes commits before its call")
	  or diag join "\n", @old[ 0 .. ($#old > 5 ? 5 : $#old) ];
	is(scalar @failed, 0, "$way->{name}: no call failed")
	  or diag join "\n", @failed[ 0 .. ($#failed > 5 ? 5 : $#failed) ];
	is($died, 0, "$way->{name}: no client died");
	cmp_ok($equal, '>', 0, "$way->{name}: one commit less would be seen");
	cmp_ok($changes, '>', 2 * $seconds, "$way->{name}: there were changes");
	$total += $clones;
}
note "$total clones";
cmp_ok($total, '>', 7 * $seconds, 'and clones');

my $complaints = join "\n",
  grep { /PANIC|could not|TRAP|WARNING/ && !/could not (send|receive) data/ } split /\n/, slurp_file($node->logfile);
is($complaints, '', 'the server log has no complaint');
$node->stop;
done_testing();
