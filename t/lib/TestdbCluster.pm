
=pod

=head1 NAME

TestdbCluster - a throwaway server with testdb

=head1 SYNOPSIS

  use TestdbCluster;

  my $node = TestdbCluster->new_server('main', 'testdb.spares = 2');
  my $admin = $node->session('postgres');
  ...
  $node->kill_server;
  $node->start_again;
  $node->stop;

=head1 DESCRIPTION

A PostgreSQL::Test::Cluster whose postmaster is a child of the test, so that its end is known at once, and a killed one does not
stay as a zombie. On top of that it has what the tests ask a server: sessions of TestdbClient's, what a database looks like from
outside, calls that are held in the middle, and ends of all kinds.

=cut

package TestdbCluster;

use strict;
use warnings;

use parent 'PostgreSQL::Test::Cluster';

use Digest::MD5;
use File::Find;
use POSIX qw(_exit setsid WNOHANG);
use PostgreSQL::Test::Cluster;
# Without its functions, which would be methods here.
use PostgreSQL::Test::Utils ();
use Test::More;
use TestdbClient;
use TestdbTest;
use Time::HiRes qw(time);

# What poll() waits at most, in seconds, for what takes milliseconds.
my $patience = $PostgreSQL::Test::Utils::timeout_default;

=pod

=head1 STARTING AND STOPPING

=over

=item TestdbCluster->new_server($name, $settings, %params)

A server with testdb in its database postgres, started; settings are lines for its configuration, params are those of init(). No
databases are made ahead unless they say so: then it is known which one is handed out next.
kills_postmaster says that the test kills the postmaster while sessions are at work.

Without TEMP_CONFIG there is nothing that loads testdb: see test/run.

=cut

sub new_server
{
	my ($class, $name, $settings, %params) = @_;
	my $self = $class->new($name);
	my $kills = delete $params{kills_postmaster};

	$self->init(%params);
	$self->append_conf(
		'postgresql.conf', qq{
log_statement = none
autovacuum = off
max_connections = 60
shared_buffers = 32MB
testdb.spares = 0
$settings
});
	$self->expect_kill if $kills;
	$self->start;
	$self->in_database('postgres', 'CREATE EXTENSION testdb');
	return $self;
}

=pod

=item $node->expect_kill

Prepares the server, before its start, for that the postmaster is killed while sessions are at work: with assertions core itself
stops when one of them then waits for its own asynchronous I/O.

=cut

sub expect_kill
{
	my ($self) = @_;
	$self->append_conf('postgresql.conf', 'io_method = sync') if $self->pg_version >= 18;
	return;
}

=pod

=item $node->init(%params)

As in PostgreSQL::Test::Cluster. Where that runs initdb each time, before 17, this copies what test/run has made by it once, as
later majors do: the folder that INITDB_TEMPLATE names.

=cut

sub init
{
	my ($self, %params) = @_;
	my $template = $ENV{INITDB_TEMPLATE};
	my $really = \&PostgreSQL::Test::Utils::system_or_bail;

	return $self->SUPER::init(%params) if !defined $template || @{ $params{extra} // [] };
	# Later majors would copy it into a folder that is there already.
	delete local $ENV{INITDB_TEMPLATE};
	no warnings 'redefine';
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		my (@command) = @_;
		@command = ('cp', '-RPp', "$template/.", $self->data_dir) if $command[0] eq 'initdb';
		return $really->(@command);
	};
	return $self->SUPER::init(%params);
}

=pod

=item $node->launch

Starts the postmaster, without waiting for anything.

=cut

sub launch
{
	my ($self) = @_;
	my $name = $self->name;

	# One that ended by itself.
	waitpid delete $self->{postmaster}, WNOHANG if $self->{postmaster};
	# Who follows WAL must not get the test's name.
	local %ENV = $self->_get_env(PGAPPNAME => undef);
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $self->logfile;
		open STDERR, '>&', \*STDOUT;
		setsid();
		{ exec 'postgres', '-D', $self->data_dir, "--cluster-name=$name" }
		_exit(1);
	}
	$self->{postmaster} = $self->{_pid} = $pid;
	return;
}

=pod

=item $node->start(fail_ok => 1)

Starts the server and waits until it lets people in; false if it ends instead, which is the end of the test unless that is allowed.

=cut

sub start
{
	my ($self, %params) = @_;
	my $name = $self->name;

	BAIL_OUT("node \"$name\" is already running") if defined $self->{_pid};
	print "### Starting node \"$name\"\n";
	$self->launch;
	my $state = poll(sub { $self->has_ended_itself ? 'ended' : $self->_status =~ /^(ready|standby)/ }, $patience);
	return 1 if $state && $state ne 'ended';
	print "# the server does not start; its log:\n", PostgreSQL::Test::Utils::slurp_file($self->logfile);
	BAIL_OUT('the server does not start') unless $params{fail_ok};
	return 0;
}

# What the postmaster says of itself in its file: starting, ready, standby, stopping.
sub _status
{
	my ($self) = @_;
	open my $in, '<', $self->data_dir . '/postmaster.pid' or return '';
	my @lines = <$in>;
	close $in;
	return @lines > 7 && $lines[0] == $self->{postmaster} ? $lines[7] : '';
}

=pod

=item $node->has_ended_itself

Has the postmaster ended without having been told to by stop()? If so, the server counts as stopped from now on.

=cut

sub has_ended_itself
{
	my ($self) = @_;
	my $pid = $self->{postmaster} // return 1;

	return 0 if waitpid($pid, WNOHANG) != $pid;
	$self->{exit_status} = $?;
	delete $self->{postmaster};
	$self->{_pid} = undef;
	return 1;
}

=pod

=item $node->stop($mode, fail_ok => 1)

Shuts the server down, in fast mode unless another one is given; true if it ended as it should. One that had ended before is the end
of the test unless that is allowed.

=cut

sub stop
{
	my ($self, $mode, %params) = @_;
	my $name = $self->name;
	my %signals = (smart => 'TERM', fast => 'INT', immediate => 'QUIT');

	$mode //= 'fast';
	return 1 unless defined $self->{_pid};
	# A child of the test's has no child of that name.
	return $self->SUPER::stop($mode, %params) if !$self->{postmaster};
	print "### Stopping node \"$name\" using mode $mode\n";
	my $early = $self->has_ended_itself;
	if (!$early)
	{
		kill $signals{$mode}, $self->{postmaster};
		poll(sub { $self->has_ended_itself }, $params{timeout} || $patience);
	}
	return 1 if !$early && !$self->{postmaster} && $self->{exit_status} == 0;
	print "# the server has ended before, or does not end well\n";
	BAIL_OUT("node \"$name\" could not be stopped") if ($early || $self->{postmaster}) && !$params{fail_ok};
	return 0;
}

=pod

=item $node->restart

Shuts the server down in fast mode and starts it again.

=cut

sub restart
{
	my ($self, %params) = @_;
	$self->stop('fast', %params);
	return $self->start(%params);
}

=pod

=item $node->kill9

Kills the postmaster. The other processes notice, and end by themselves.

=cut

sub kill9
{
	my ($self) = @_;
	$self->SUPER::kill9;
	waitpid delete $self->{postmaster}, 0 if $self->{postmaster};
	return;
}

=pod

=item $node->kill_server(@stopped)

The same, and kills processes that were stopped by SIGSTOP.

=cut

sub kill_server
{
	my ($self, @stopped) = @_;
	$self->kill9;
	kill 'KILL', @stopped if @stopped;
	return;
}

=pod

=item $node->start_again

Starts a server that was killed or has crashed, as soon as its last process has gone.

=cut

sub start_again
{
	my ($self) = @_;
	poll(sub { $self->has_ended_itself && !$self->server_pids }, $patience) or die 'processes of the server do not end';
	$self->start;
	return;
}

=pod

=item $node->wait_until_up

Waits until the server lets people in again after one of its processes was killed; dies if it ends instead.

=cut

sub wait_until_up
{
	my ($self) = @_;
	poll(
		sub {
			die 'the server ends instead of starting' if $self->has_ended_itself;
			my $client = $self->connect_to('postgres');
			return !$client->error && $client->do('SELECT 1');
		},
		$patience) or die 'the server does not start';
	return;
}

=pod

=item $node->reload

Has the configuration read again. All processes have been told when this returns, and act on it before they do anything else that they
are asked for: the postmaster tells them before it accepts a connection.

=cut

sub reload
{
	my ($self) = @_;
	my $before = $self->_configured_at;
	$self->SUPER::reload;
	poll(sub { ($self->_configured_at // $before) ne $before }, $patience) or die 'the configuration is not read';
	return;
}

# When the postmaster had last read the configuration as it accepted a new connection; undef if that is lost.
sub _configured_at
{
	my ($self) = @_;
	my $client = $self->reconnect;
	my $time = $client->query('SELECT pg_conf_load_time()');
	$client->close;
	return $time;
}

=pod

=item $node->set_conf($how, name => value, ...)

Changes settings, and has them read: $how is 'restart' or 'reload'.

=cut

sub set_conf
{
	my ($self, $how, %settings) = @_;
	$self->append_conf('postgresql.conf', "$_ = '$settings{$_}'") for sort keys %settings;
	$self->$how;
	return;
}

=pod

=back

=head1 PROCESSES

=over

=item $node->server_pids

The processes of this server, the postmaster among them: whoever works in its data directory, or is just being started there. That
finds the orphans of a postmaster that was killed as well.

=cut

sub server_pids
{
	my ($self) = @_;
	my $dir = $self->data_dir;
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

=pod

=item $node->pids_by_title($pattern)

Those of the server's processes whose title matches: "postgres: checkpointer", without the server's name.

=cut

sub pids_by_title
{
	my ($self, $pattern) = @_;
	my $name = $self->name;
	return grep { (_title_of($_) =~ s/^postgres: \Q$name\E: /postgres: /r) =~ $pattern } $self->server_pids;
}

=pod

=item $node->kill_everything($whole_writes)

Kills all processes of the server at once, as kill_pids() does, and waits until they have gone.

=cut

sub kill_everything
{
	my ($self, $whole_writes) = @_;
	poll(
		sub {
			# One that was forked just now is not in the data directory yet. The postmaster comes first: it would start the others anew,
			# and be killed in recovery.
			my %seen;
			my @pids = grep { !$seen{$_}++ } $self->{postmaster} // (), $self->server_pids;
			kill_pids($whole_writes, @pids);
			$self->has_ended_itself;
			return !@pids;
		},
		$patience) or die 'processes of the server do not end';
	return;
}

=pod

=item $node->kill_postmaster($whole_writes)

Kills the postmaster alone, as kill_pids() does, and waits until the others, which notice by themselves, have gone; after some seconds
it kills them.

=cut

sub kill_postmaster
{
	my ($self, $whole_writes) = @_;
	my $enough = time + 5;
	kill_pids($whole_writes, $self->{postmaster});
	poll(
		sub {
			my $ended = $self->has_ended_itself;
			my @pids = $self->server_pids;
			kill_pids($whole_writes, @pids) if time > $enough;
			return $ended && !@pids;
		},
		$patience) or die 'processes of a server that was killed do not end';
	return;
}

=pod

=item $node->has_ended($pid)

Has a session's process ended, in much less time than any lock or call takes to time out?

=cut

sub has_ended
{
	my ($self, $pid) = @_;
	my $client = $self->connect_to('postgres');
	my $ended = poll(sub { run($client, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0 }, 10);
	$client->close;
	return $ended;
}

=pod

=item $node->worker_pids($condition)

The process IDs of testdb's workers, or of those that meet a condition on pg_stat_activity.

=cut

sub worker_pids
{
	my ($self, $condition) = @_;
	my $client = $self->connect_to('postgres');
	my @pids = _worker_pids($client, $condition || 'true');
	$client->close;
	return @pids;
}

# The same, by a session.
sub _worker_pids
{
	my ($client, $condition) = @_;
	return split /\n/,
	  run($client, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'testdb worker' AND ($condition)");
}

=pod

=back

=head1 SESSIONS

=over

=item $node->connect_to($database, %args)

A session in a database; args are those of TestdbClient's. Its error() tells whether that worked.

=cut

sub connect_to
{
	my ($self, $db, %args) = @_;
	return TestdbClient->new(
		host => $self->host,
		port => $self->port,
		db => $db,
		%args);
}

=pod

=item $node->session($database, %args)

The same, which must succeed.

=cut

sub session
{
	my ($self, $db, %args) = @_;
	my $client = $self->connect_to($db, %args);
	die "$db: " . $client->message if $client->error;
	return $client;
}

=pod

=item $node->reconnect

A session in the database postgres, as soon as the server takes one.

=cut

sub reconnect
{
	my ($self) = @_;
	my $client;
	poll(sub { $client = $self->connect_to('postgres'); !$client->error && $client->do('SELECT 1') }, $patience)
	  or die $client->told;
	return $client;
}

=pod

=item $node->leave($client, $other)

Closes a session, and waits, by another one, until its process has ended. Otherwise what comes next might find it still there, and
terminate it.

=cut

sub leave
{
	my ($self, $client, $other) = @_;
	my $pid = $client->pid;
	$client->close;
	poll(sub { ($other->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") // 0) == 0 && !kill(0, $pid) })
	  or die "process $pid does not end";
	return;
}

=pod

=item $node->in_database($database, @statements)

Runs statements in a session of its own, which must succeed; what the last one returned.

=cut

sub in_database
{
	my ($self, $db, @statements) = @_;
	my $client = $self->session($db);
	my $result;
	$result = run($client, $_) for @statements;
	$client->close;
	return $result;
}

=pod

=item $node->error_of($statement, db => 'postgres', %args)

What a statement in a session of its own is told, as TestdbClient's told().

=cut

sub error_of
{
	my ($self, $sql, %args) = @_;
	my $client = $self->connect_to($args{db} || 'postgres', %args);
	$client->do($sql) unless $client->error;
	$client->close;
	return $client->told;
}

=pod

=back

=head1 CALLS THAT ARE HELD

=over

=item $node->hold_workers

A session that holds every worker in the middle of making or dropping a database, with nothing copied or removed yet.

=cut

sub hold_workers
{
	my ($self) = @_;
	my $client = $self->connect_to('postgres');
	run($client, 'BEGIN; LOCK TABLE pg_shdepend IN SHARE MODE');
	return $client;
}

=pod

=item $node->wait_held($count)

Waits until so many workers wait for a lock; their process IDs.

=cut

sub wait_held
{
	my ($self, $count) = @_;
	my $client = $self->connect_to('postgres');
	my @pids;
	poll(sub { @pids = _worker_pids($client, "wait_event_type = 'Lock'"); @pids == $count }, $patience)
	  or die "no $count workers wait for a lock";
	$client->close;
	return wantarray ? @pids : $pids[0];
}

=pod

=item $node->waits_for_worker($pid)

Waits until that session waits for a worker.

=cut

sub waits_for_worker
{
	my ($self, $pid) = @_;
	my $client = $self->connect_to('postgres');
	poll(sub { run($client, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $pid") eq 'Extension' },
		$patience)
	  or die "process $pid does not wait for a worker";
	$client->close;
	return;
}

# How many entries a directory has.
sub _entries_of
{
	my ($directory) = @_;
	opendir my $handle, $directory or die "$directory: $!";
	my @entries = readdir $handle;
	closedir $handle;
	return scalar @entries;
}

=pod

=item $node->frozen_clone($template)

A clone whose making was stopped while files are copied: the session that asks for it, the only worker's process ID, the clone's
OID. The worker has to be continued or killed. It takes some luck to stop it in time, so this tries more than once.

=cut

sub frozen_clone
{
	my ($self, $template) = @_;
	my $base = $self->data_dir . '/base';
	my $admin = $self->connect_to('postgres');
	my $total = _entries_of("$base/" . oid_of($admin, $template));
	for (1 .. 20)
	{
		my ($worker) = $self->worker_pids;
		my $client = $self->connect_to('postgres');
		my %known = map { $_ => 1 } glob("$base/*");
		my $before = _entries_of($base);
		my $end = time + $patience;

		$client->send("SELECT testdb_clone('$template')");
		while (_entries_of($base) == $before) { last if time > $end }
		kill 'STOP', $worker;
		my ($oid) = map { $known{$_} ? () : /(\d+)$/ } glob("$base/*");
		# Not so late that it may not look any more whether it has been cancelled.
		if (defined $oid && _entries_of("$base/$oid") < $total / 2)
		{
			$admin->close;
			return ($client, $worker, $oid);
		}
		kill 'CONT', $worker;
		my $name = $client->result->{rows}[0][0];
		run($client, "SELECT testdb_drop('$name')");
		$client->close;
	}
	die 'the worker was never stopped in time';
}

=pod

=item $node->set_point($point, @more)

Where processes of a server with a library that was built with DEBUG=1 fail from its next start or reload on: "NAME kill", or nowhere
if it is empty. More are other lines of configuration. The server's configuration must include point.conf.

=cut

sub set_point
{
	my ($self, $point, @more) = @_;
	open my $out, '>', $self->data_dir . '/point.conf' or die $!;
	print $out map { "$_\n" } "testdb.debug_point = '$point'", @more;
	close $out;
	return;
}

=pod

=item $node->use_point($point, @more)

The same for a server that runs, from now on: idle workers have heard of it when they are next asked for something.

=cut

sub use_point
{
	my ($self, $point, @more) = @_;
	$self->set_point($point, @more);
	$self->reload;
	return;
}

=pod

=back

=head1 STATE

=over

=item $node->server_state

All that testdb may leave behind in a server: databases, their directories in all tablespaces, leases.

=cut

sub server_state
{
	my ($self) = @_;
	my $data = $self->data_dir;
	my $databases = $self->in_database('postgres', 'SELECT oid, datname FROM pg_database ORDER BY oid');
	return join "\n", $databases, map { s/^\Q$data\E\///r }
	  sort glob("$data/base/[0-9]* $data/pg_tblspc/*/PG_*/[0-9]* $data/pg_testdb/clones/*");
}

=pod

=item $node->is_restored($state, $title)

Tests that the server gets back into the state that it had, when the workers have done what was left to them.

=cut

sub is_restored
{
	my ($self, $state, $title) = @_;
	my $client = $self->connect_to('postgres');
	poll(sub { is_idle($client) && $self->server_state eq $state }, 30);
	$client->close;
	return is($self->server_state, $state, $title);
}

=pod

=item $node->adds_up($admin, $title)

Tests that, when the workers have nothing more to do, each lease on disk is that of a database which testdb knows, and the other way
round; and that each directory is that of a database.

=cut

sub adds_up
{
	my ($self, $admin, $title) = @_;
	my ($known, $found, $databases, $directories);
	poll(
		sub {
			return 0 unless is_idle($admin);
			$known = join ' ', sort { $a <=> $b } split /\n/, run($admin, 'SELECT oid FROM testdb_clones()');
			$found = join ' ', sort { $a <=> $b } map { m{/(\d+)$} } glob($self->data_dir . '/pg_testdb/clones/*');
			$databases = run($admin, 'SELECT oid FROM pg_database ORDER BY oid');
			$directories = join "\n", sort { $a <=> $b } map { m{/(\d+)$} } glob($self->data_dir . '/base/*');
			return $known eq $found && $databases eq $directories;
		},
		30);
	return is($found, $known, "$title: leases and what is known add up") &
	  is($directories, $databases, "$title: directories and databases add up");
}

=pod

=item $node->spare_of($oid, $old_name)

Waits until a database that was dropped is ready to be handed out, and returns the name that it then has; undef if it has gone
instead.

=cut

sub spare_of
{
	my ($self, $oid, $old_name) = @_;
	my $client = $self->session('postgres');
	my $name;
	poll(
		sub {
			my ($row) = $client->rows(
				qq{
				SELECT datname, datconnlimit,
					(SELECT coalesce(sum(recycling), 0) FROM testdb_templates)
				FROM pg_database WHERE oid = $oid});
			$name = $row ? $row->[0] : undef;
			return !$row
			  || ($row->[0] ne $old_name && $row->[1] != -2 && $row->[2] == 0);
		}) or die "database $old_name is neither recycled nor removed";
	$client->close;
	return $name;
}

=pod

=item $node->dump_of($database)

pg_dump of a database, without what differs from one run to the next.

=cut

sub dump_of
{
	my ($self, $db) = @_;
	my ($out, $err) =
	  PostgreSQL::Test::Utils::run_command([ 'pg_dump', '-h', $self->host, '-p', $self->port, '--blobs', $db ]);
	die "pg_dump of $db: $err" if $err ne '';
	$out =~ s/^\\(un)?restrict .*$//mg;
	return $out;
}

=pod

=item $node->files_of($oid)

The files in a database's directory: name => checksum. Nothing of it is read from the server's memory.

=cut

sub files_of
{
	my ($self, $oid) = @_;
	my $dir = $self->data_dir . "/base/$oid";
	my %files;
	opendir my $handle, $dir or die "$dir: $!";
	for my $file (grep { !/^\.\.?$/ } readdir $handle)
	{
		open my $in, '<:raw', "$dir/$file" or next;
		$files{$file} = Digest::MD5->new->addfile($in)->hexdigest . ' ' . -s $in;
		close $in;
	}
	closedir $handle;
	return \%files;
}

=pod

=item $node->occupied

What all databases and snapshots occupy, in bytes.

=cut

sub occupied
{
	my ($self) = @_;
	my $data = $self->data_dir;
	my $bytes = 0;
	find({ no_chdir => 1, wanted => sub { my @stat = lstat $_; $bytes += $stat[12] * 512 if @stat && -f _ } },
		"$data/base", "$data/pg_testdb/snapshots");
	return $bytes;
}

=pod

=item $node->is_same_database($admin, $oid, $wanted_oid, $title)

Tests that a database that nobody has connected to yet equals another one, which is flushed, in files and catalogs.

=cut

sub is_same_database
{
	my ($self, $admin, $oid, $wanted_oid, $title) = @_;
	my $files = differences($self->files_of($wanted_oid), $self->files_of($oid));
	my $rows = differences(catalog_rows($admin, $wanted_oid), catalog_rows($admin, $oid));
	return is($files, '', "$title: files") & is($rows, '', "$title: catalogs");
}

=pod

=item $node->log_text($from)

The server's log from this byte on, but for what the C library says of processes that are ended after another has crashed: PostgreSQL's
quickdie() reports to the client in its signal handler, which may have interrupted malloc().

=cut

sub log_text
{
	my ($self, $from) = @_;
	return _without_malloc(PostgreSQL::Test::Utils::slurp_file($self->logfile, $from));
}

# A part of a log without that.
sub _without_malloc
{
	my ($text) = @_;
	my $said = qr/^(?:Fatal glibc error: malloc|\w+\(\): |corrupted |double free )[^\n]*\n/m;
	$text =~ s{terminating any other active server processes\n\K(.*?)(?=[^\n]*all server processes terminated|\z)}
	  { my $ending = $1; $ending =~ s/$said//gr }egs;
	return $text;
}

=pod

=item $node->complaints($pattern, @provoked)

The entries of the server's log since the last call, each with all its lines, that match the pattern, but for those that match one of
the others, for what was provoked.

=cut

sub complaints
{
	my ($self, $pattern, @provoked) = @_;
	my $text = PostgreSQL::Test::Utils::slurp_file($self->logfile, $self->{log_position} // 0);
	my @entries;

	$self->{log_position} += length $text;
	for my $line (split /\n/, _without_malloc($text))
	{
		# A line without a level is the rest of a message, or its detail.
		if ($line =~ /^[^"]*? (LOG|WARNING|ERROR|FATAL|PANIC|NOTICE|INFO|DEBUG\d):  |^TRAP/ || !@entries)
		{
			push @entries, $line;
		}
		else { $entries[-1] .= "\n$line" }
	}
	return grep {
		my $entry = $_;
		$entry =~ $pattern && !grep { $entry =~ $_ } @provoked
	} @entries;
}

=pod

=item $node->log_lines($from, $pattern, $harmless)

The lines of the server's log from this byte on that match, but for those that match the second pattern; and, as the first, how long
the log is now.

=cut

sub log_lines
{
	my ($self, $from, $pattern, $harmless) = @_;
	my @lines = grep { $_ =~ $pattern && $_ !~ $harmless } split /\n/, $self->log_text($from);
	return (-s $self->logfile, @lines);
}

=pod

=back

=cut

1;
