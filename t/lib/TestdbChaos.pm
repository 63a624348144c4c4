
# What the tests that kill servers share: the server's processes, and ways to end them.

package TestdbChaos;

use strict;
use warnings;

use Exporter 'import';
use POSIX qw(_exit setsid WNOHANG);
use PostgreSQL::Test::Utils;
use TestdbTest;
use Time::HiRes qw(time usleep);

our @EXPORT =
  qw(take_over launch wait_until_up start_server stop_server server_pids pids_by_title kill_pids kill_everything
  in_child add_line lines_of log_lines);

my %postmasters;    # by the node's name
my $test_pid = $$;

# What is waited for at most, in seconds.
my $patience = $PostgreSQL::Test::Utils::timeout_default;

# The processes of this server, the postmaster among them: whoever works in its data directory, or is just being started
# there. That finds the orphans of a postmaster that was killed as well.
sub server_pids
{
	my ($node) = @_;
	my $dir = $node->data_dir;
	my @pids;
	for my $proc (glob '/proc/[0-9]*')
	{
		my ($pid) = $proc =~ /(\d+)$/;
		my $cwd = readlink "$proc/cwd";
		push @pids, $pid if (defined $cwd && $cwd eq $dir) || _title_of($pid) =~ m{^[^\0]*postgres\0-D\0\Q$dir\E};
	}
	return @pids;
}

# What ps shows of a process.
sub _title_of
{
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/cmdline" or return '';
	local $/;
	my $title = <$in> // '';
	close $in;
	return $title;
}

# Those of the server's processes whose title matches.
sub pids_by_title
{
	my ($node, $pattern) = @_;
	return grep { _title_of($_) =~ $pattern } server_pids($node);
}

# Is the process stopped, a zombie or gone?
sub _is_stopped
{
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/stat" or return 1;
	my $line = <$in> // '';
	close $in;
	return $line !~ /\) [^TtZX] /;
}

# Kills processes with signal 9. With $whole_writes each has finished its system call before that, so that no page is torn:
# PostgreSQL can't repair one with full_page_writes = off.
sub kill_pids
{
	my ($whole_writes, @pids) = @_;
	return unless @pids;
	if ($whole_writes)
	{
		kill 'STOP', @pids;
		poll(
			sub {
				!grep { !_is_stopped($_) } @pids;
			},
			5);
	}
	kill 'KILL', @pids;
	return;
}

# From here on the postmaster is a child of the test: only its parent can tell that a killed process has really gone, and
# until then pg_ctl takes it for one that runs.
sub take_over
{
	my ($node) = @_;
	$node->stop;
	start_server($node);
	return;
}

# Starts the postmaster, without waiting for anything.
sub launch
{
	my ($node) = @_;
	my $bin = $node->config_data('--bindir');
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>>', $node->logfile;
		open STDERR, '>&', \*STDOUT;
		open STDIN, '<', '/dev/null';
		setsid();
		{ exec "$bin/postgres", '-D', $node->data_dir }
		_exit(1);
	}
	$postmasters{ $node->name } = $pid;
	return;
}

# Waits until the server lets people in; dies if it ends instead.
sub wait_until_up
{
	my ($node) = @_;
	poll(
		sub {
			waitpid($postmasters{ $node->name }, WNOHANG) == 0 or die 'the server ends instead of starting';
			my $client = connect_to($node, 'postgres');
			return !$client->error && $client->do('SELECT 1');
		},
		$patience) or die 'the server does not start';
	return;
}

# Both.
sub start_server
{
	my ($node) = @_;
	launch($node);
	wait_until_up($node);
	return;
}

# Shuts the server down in fast mode; its exit status, 0 if all went well.
sub stop_server
{
	my ($node) = @_;
	my $pid = delete $postmasters{ $node->name };
	kill 'INT', $pid;
	waitpid $pid, 0;
	return $?;
}

# Kills all processes of the server at once, and waits until they have gone.
sub kill_everything
{
	my ($node, $whole_writes) = @_;
	poll(
		sub {
			# One that was forked just now is not in the data directory yet.
			my $postmaster = $postmasters{ $node->name };
			my %pids = map { $_ => 1 } server_pids($node), defined $postmaster ? $postmaster : ();
			kill_pids($whole_writes, keys %pids);
			delete $postmasters{ $node->name } if defined $postmaster && waitpid($postmaster, WNOHANG) != 0;
			return !%pids;
		},
		$patience) or die 'processes of the server do not end';
	return;
}

# A test that dies leaves no server behind.
END
{
	if ($$ == $test_pid)
	{
		my $status = $?;
		kill 'QUIT', values %postmasters;
		waitpid $_, 0 for values %postmasters;
		$? = $status;
	}
}

# Runs the function in a child process and returns its process ID. Output that the child leaves behind for the parent goes
# through files.
sub in_child
{
	my ($function) = @_;
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	return $pid if $pid;
	my $ok = eval { $function->(); 1 };
	my $why = $@;
	print STDERR "# child failed: $why\n" unless $ok;
	_exit($ok ? 0 : 1);
}

# Adds a line to a file, in one write, with the time.
sub add_line
{
	my ($file, @words) = @_;
	open my $out, '>>', $file or die "$file: $!";
	syswrite $out, join("\t", sprintf('%.6f', time), @words) . "\n";
	close $out;
	return;
}

# The lines of such files, as arrays of words, in the order of time.
sub lines_of
{
	my (@files) = @_;
	my @lines;
	for my $file (@files)
	{
		open my $in, '<', $file or next;
		while (<$in>)
		{
			chomp;
			push @lines, [ split /\t/, $_, -1 ];
		}
		close $in;
	}
	return sort { $a->[0] <=> $b->[0] } @lines;
}

# The lines of the server's log from this byte on that match, but for those that match the second pattern; and how long the
# log is now.
sub log_lines
{
	my ($node, $from, $pattern, $harmless) = @_;
	my @lines = grep { $_ =~ $pattern && $_ !~ $harmless } split /\n/, slurp_file($node->logfile, $from);
	return (-s $node->logfile, @lines);
}

1;
