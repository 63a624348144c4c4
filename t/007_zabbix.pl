
# A real application's database as the template: 16 clients at once make, use and drop clones of it. No call fails, each
# clone has what the template has, and in the end there is nothing that was not there before.
#
#   TESTDB_ZABBIX_LIVES    how many clones each client has in turn: 25, or 2 in a short run
#   TESTDB_ZABBIX_COPIES   the same where PostgreSQL copies the template: 4, or 1

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;
use Time::HiRes qw(time);

my $source = $ENV{TESTDB_ZABBIX};
plan skip_all => 'TESTDB_ZABBIX is not set: the folder with zabbix\'s schema.sql.gz, images.sql.gz and data.sql.gz'
  unless $source;

my $template = 'regression_zabbix';
my $clients = 16;
# How often each of them does that: as it is, and by core's own copying only, which takes longer.
my %lives = (native => how_much('TESTDB_ZABBIX_LIVES', 2, 25), file_copy => how_much('TESTDB_ZABBIX_COPIES', 1, 4));

# Runs the statements of a compressed file in one transaction. Rows that are inserted one by one are inserted hundreds at a time,
# which is ten times faster; what else comes between them is sent as it is. A statement ends with a line where no string is open.
sub load
{
	my ($client, $file) = @_;
	my ($text, $statement, $quotes, $into, @rows) = ('', '', 0, '');
	my $flush = sub {
		run($client, $text) if $text ne '';
		run($client, $into . join(',', splice @rows)) if @rows;
		$text = '';
	};

	open my $in, '-|', 'gzip', '-dc', $file or die "gzip: $!";
	run($client, 'BEGIN');
	while (my $line = <$in>)
	{
		next if $quotes % 2 == 0 && $line =~ /^(START TRANSACTION|COMMIT);$/;
		$statement .= $line;
		$quotes += $line =~ tr/'//;
		next if $quotes % 2 || $line !~ /;$/;
		my ($target, $row) = $statement =~ /^(INSERT INTO \w+ \([^)]*\) values )(\(.*\));$/s;
		$flush->() if ($target // '') ne $into || @rows == 500;
		$into = $target // '';
		defined $target ? push(@rows, $row) : ($text .= $statement);
		$statement = '';
	}
	close $in or die "gzip: $?";
	$flush->();
	run($client, $statement) if $statement =~ /\S/;
	run($client, 'COMMIT');
	return;
}

my $node = TestdbCluster->new_server(
	'main', q{
max_connections = 100
});
my $admin = $node->connect_to('postgres');
run($admin, 'CREATE ROLE regress_zabbix LOGIN');
run($admin, 'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop TO regress_zabbix');
run($admin, "CREATE DATABASE $template OWNER regress_zabbix");
{
	my $client = $node->connect_to($template, user => 'regress_zabbix');
	load($client, "$source/$_.sql.gz") for 'schema', 'images', 'data';
	$client->close;
}

# One query for the row counts of all tables, and how they are in the template.
my $client = $node->connect_to($template, user => 'regress_zabbix');
my @tables = split /\n/, run(
	$client, q{SELECT relname FROM pg_class
	WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname});
my $count_rows = join(" UNION ALL ", map { "SELECT '$_', count(*) FROM \"$_\"" } @tables) . " ORDER BY 1";
my $counts = run($client, $count_rows);
my $size = run($client, 'SELECT pg_size_pretty(pg_database_size(current_database()))');
$client->close;
cmp_ok(scalar(@tables), '>', 150, 'the template has as many tables as zabbix has');
like($counts, qr/^items\|\d{4,}$/m, 'and rows in them');
note scalar(@tables), " tables, $size";

# What one of the clients does: so many lives of a clone, with a word on each thing that went wrong.
sub live
{
	my ($method, $number, $lives) = @_;
	my $caller = $node->connect_to('postgres', user => 'regress_zabbix');
	my @wrong;
	push @wrong, $caller->told unless $caller->do("SET testdb.method = '$method'");
	for my $life (1 .. $lives)
	{
		# One in eight has a name of the caller's choice.
		my $name = $caller->query(
			($life + $number) % 8
			? "SELECT testdb_clone('$template')"
			: "SELECT testdb_clone('$template', 'regression_$number $life')");
		unless ($name)
		{
			push @wrong, 'clone: ' . $caller->told;
			next;
		}
		my $user = $node->connect_to($name, user => 'regress_zabbix');
		my $found = $user->query($count_rows);
		push @wrong, "$name: " . $user->told unless defined $found;
		push @wrong, "$name: other row counts" if defined $found && $found ne $counts;
		for my $change (
			'DELETE FROM trends',
			q{INSERT INTO housekeeper (housekeeperid, tablename, field, value) VALUES (1, 'a', 'b', 1)},
			'CREATE TABLE mine AS SELECT * FROM items',
			'DROP TABLE functions CASCADE',
			q{UPDATE users SET name = 'changed'})
		{
			push @wrong, "$name: $change: " . $user->told unless $user->do($change);
		}
		# One in four is dropped with the session still in it.
		$user->close if ($life + $number) % 4;
		my $dropped = $caller->query("SELECT testdb_drop('$name')");
		push @wrong, "$name: not dropped: " . $caller->told unless ($dropped || '') eq 't';
	}
	$caller->close;
	return @wrong;
}

for my $method ('native', 'file_copy')
{
	my $state = $node->server_state;
	my $offset = -s $node->logfile;
	my $lives = $lives{$method};
	my $clones = $lives * $clients;
	my $start = time;
	my @pipes;
	for my $number (1 .. $clients)
	{
		my $pid = open(my $pipe, '-|') // die "fork: $!";
		if ($pid == 0)
		{
			my @wrong = eval { live($method, $number, $lives) };
			push @wrong, $@ if $@;
			print map { s/\n/ /gr . "\n" } @wrong, 'done';
			STDOUT->flush;
			# Without the parent's END blocks, which would stop the server.
			POSIX::_exit(0);
		}
		push @pipes, $pipe;
	}
	my @said;
	push @said, <$_> for @pipes;
	my $seconds = time - $start;
	is(scalar(grep { $_ eq "done\n" } @said), $clients, "$method: all clients came to their end");
	is(join('', grep { $_ ne "done\n" } @said), '', "$method: nothing went wrong");
	note sprintf '%s: %d clones with %d clients in %.1f s, %.1f ms per clone', $method, $clones, $clients,
	  $seconds, 1000 * $seconds / $clones;
	is(run($admin, 'SELECT count(*) FROM testdb_clones'), 0, "$method: no clone is left");

	# What is kept for the next call does not outlive the server.
	$node->set_conf('restart', 'testdb.spares' => 0, 'testdb.recycled' => 0);
	$admin = $node->connect_to('postgres');
	$node->is_restored($state, "$method: pg_database and base/ hold what they held before");
	ok(!$node->log_contains(qr/PANIC|TRAP|was terminated by signal|WARNING/, $offset),
		"$method: the log has no complaint");
}

$node->stop;
done_testing();
