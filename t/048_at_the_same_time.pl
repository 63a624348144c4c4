
# Several sessions do different things to one clone at the same time, and a lease is written by one of them at a time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX qw(mkfifo O_NONBLOCK O_RDONLY);
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbLife;
use TestdbTest;

set_up();

#
# Several sessions do different things to the same clone: each is told how it went, and what is on disk is what is known.
#
{
	my @calls =
	  ('testdb_keep', 'testdb_reset', 'testdb_drop', 'testdb_keep', 'testdb_drop', 'testdb_keep', 'testdb_reset');
	my @clients = map { $node->connect_to('postgres') } @calls;
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
$node->adds_up($admin, 'at the same time');

#
# A lease is written by one session at a time. Each is held at that by a pipe in the place of its file, which nobody reads;
# when that is opened, writing fails.
#
sub held_at_lease
{
	my ($file, $sql, $while) = @_;
	rename $file, "$file.saved" or die "rename: $!";
	mkfifo($file, 0600) or die "mkfifo: $!";
	my $client = $node->connect_to('postgres');
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
	return $client->told;
}
SKIP:
{
	skip 'no /proc/*/wchan here', 1 unless -r '/proc/self/wchan';
	my $name = clone(q{NULL, 'manual', '1 hour'});
	my $file = "$leases/" . oid_of($admin, $name);
	my $dropper = $node->connect_to('postgres');
	my $user = $node->connect_to($name);
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
			is($dropper->sqlstate, '55000', 'a spare that is being handed out: error') or diag $dropper->told;
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
$node->adds_up($admin, 'leases');

ok(!$node->log_contains(qr/PANIC|TRAP|signal (6|11)|could not (drop|remove|recycle)/), 'no trouble in the log');
$node->stop;
done_testing();
