
# Kills processes with signal 9 at each step of cloning, dropping, recycling, resetting and taking a snapshot. When the server has come
# up again there must be what there should be, and nothing else. Needs a library that was built with DEBUG=1; test/run makes one for
# this test.
#
#   TESTDB_POINTS        only these points
#   TESTDB_POINT_WAYS    in how many ways processes end at a point of a case: 3, or in a short run 1 in turn, at one of three points
#   TESTDB_POINT_TURN    repeats the choice of another short run

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbPoints;
use TestdbSteps;
use TestdbTest;

BEGIN { plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG} }
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

sub try_kill
{
	my ($case, $point) = @_;
	my $what = "$case->{name}, kill at $point";
	my $argument = $case->{prepare}->();
	settle();
	if ($case->{act} eq 'start')
	{
		shut_down();
		$node->set_point("$point kill");
		$node->start(fail_ok => 1);
	}
	else
	{
		$node->use_point("$point kill");
	}
	my $reached = attempt($case, $argument, \&server_is_gone);
	ok($reached, "$what: comes there") or $node->stop('immediate');
	$node->set_point('');
	start();
	$case->{tidy}->() if $case->{tidy};
	is_right(
		$what,
		# A session that was just closed.
		qr/LOG:  could not send data to client: Broken pipe/,
		# Redo ends where WAL does.
		qr/LOG:  unexpected pageaddr/,
		# Redo of the removal of a database whose files have gone.
		$point =~ /^removal-/
		? qr/WARNING:  (could not open directory "base|some useless files may be left behind)/
		: (),
		@{ $case->{provokes} // [] });
	return;
}

new_cluster('killed', "wal_level = minimal\nmax_wal_senders = 0");
try_kill(@$_) for planned('kill');
stop();

new_cluster('killed_logged', 'wal_level = replica');
for my $case (grep { $_->{logged} } @cases)
{
	try_kill($case, $_) for grep { wanted($_) } $case->{points}[-1], @{ $case->{logged} };
}
stop();
done_testing();
