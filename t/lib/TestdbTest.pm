
# What the tests share that is not about a server as a whole, which is in TestdbCluster: statements, waiting, what databases look like
# from within, and processes of the test's own.

package TestdbTest;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use List::Util qw(min);
use POSIX      qw(_exit);
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

our @EXPORT =
  qw(how_much has_contrib run oid_of poll is_idle differences row_columns catalog_rows described state_of kill_pids oom_kills in_child add_line lines_of);

# How much a test does that could go on for ever: what the environment says by this name, or by itself as much as the run is meant
# to last. A run is long if TESTDB_LONG is set, as continuous integration does.
sub how_much
{
	my ($name, $short, $long) = @_;
	return $ENV{$name} // ($ENV{TESTDB_LONG} ? $long : $short);
}

# Whether PostgreSQL has this extension of contrib. Some builds have none; a test then skips what needs it, and nothing else.
sub has_contrib
{
	my ($name) = @_;
	my ($folder, $err) = run_command([ $ENV{PG_CONFIG} || 'pg_config', '--sharedir' ]);
	die "pg_config: $err" if $folder eq '';
	return -e "$folder/extension/$name.control";
}

# Runs a statement that must succeed, and returns its rows as text.
sub run
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	die "$sql\n" . $client->message if $client->error;
	return $result;
}

# The OID of the database of that name; undef if there is none.
sub oid_of
{
	my ($client, $name) = @_;
	return $client->query("SELECT oid FROM pg_database WHERE datname = '$name'");
}

# Calls the function until it returns something true, which is returned; undef after so many seconds. Where nobody looks at
# what is returned, nor says how long to wait, it is an error if that takes 30 s.
sub poll
{
	my ($function, $seconds) = @_;
	my $start = time;
	my $end = $start + ($seconds || 30);
	for (;;)
	{
		my $result = $function->();
		return $result if $result;
		if (time > $end)
		{
			croak 'what was waited for has not come' unless defined wantarray || $seconds;
			return undef;
		}
		# What comes soon is noticed soon; what takes long is not asked for all the time.
		usleep(min(10_000, 2000 + 20_000 * (time - $start)));
	}
}

# How two such hashes differ, in lines; the empty string if they don't.
sub differences
{
	my ($a, $b) = @_;
	my @lines;
	for my $name (sort keys %{ { %$a, %$b } })
	{
		my ($left, $right) = map { $_->{$name} // 'missing' } $a, $b;
		push @lines, "$name: $left, $right" if $left ne $right;
	}
	return join "\n", @lines;
}

# The columns of pg_database in which a clone must equal its template: all but a few, whatever the version.
sub row_columns
{
	my ($admin) = @_;
	return map { $_->[0] } $admin->rows(
		q{
		SELECT attname FROM pg_attribute
		WHERE attrelid = 'pg_database'::regclass AND attnum > 0 AND NOT attisdropped
			AND attname NOT IN ('oid', 'datname', 'datdba', 'datistemplate',
				'datallowconn', 'datacl')
		ORDER BY attnum});
}

# What the shared catalogs say of a database, as name => text. The owner's name is replaced, so that databases of
# different owners can be compared.
sub catalog_rows
{
	my ($admin, $oid) = @_;
	my %rows;
	for my $column (row_columns($admin))
	{
		$rows{"pg_database.$column"} =
		  $admin->query("SELECT coalesce($column\::text, '(null)') FROM pg_database WHERE oid = $oid");
	}
	$rows{'pg_database.datacl'} = $admin->query(
		qq{
		SELECT coalesce(string_agg(format('%s to %s by %s grant %s', a.privilege_type,
			CASE WHEN a.grantee = d.datdba THEN '(owner)' WHEN a.grantee = 0 THEN 'public'
				ELSE a.grantee::regrole::text END,
			CASE WHEN a.grantor = d.datdba THEN '(owner)' ELSE a.grantor::regrole::text END,
			a.is_grantable), ', '
			ORDER BY a.privilege_type, a.grantee = d.datdba, a.grantee::regrole::text), '(null)')
		FROM pg_database d LEFT JOIN LATERAL aclexplode(d.datacl) a ON true
		WHERE d.oid = $oid AND d.datacl IS NOT NULL});
	$rows{pg_db_role_setting} = $admin->query(
		qq{
		SELECT setrole, setconfig FROM pg_db_role_setting
		WHERE setdatabase = $oid ORDER BY setrole});
	$rows{'pg_shdepend of objects'} = $admin->query(
		qq{
		SELECT classid, objid, objsubid, refclassid, refobjid, deptype
		FROM pg_shdepend WHERE dbid = $oid ORDER BY 1, 2, 3, 4, 5, 6});
	$rows{'pg_shdepend of the database'} = $admin->query(
		qq{
		SELECT s.refclassid, s.refobjid, s.deptype
		FROM pg_shdepend s JOIN pg_database d ON d.oid = s.objid
		WHERE s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = $oid
			AND NOT (s.deptype = 'o' AND s.refobjid = d.datdba) ORDER BY 1, 2, 3});
	$rows{'wrong owner in pg_shdepend'} = $admin->query(
		qq{
		SELECT s.refobjid FROM pg_shdepend s JOIN pg_database d ON d.oid = s.objid
		WHERE s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = $oid
			AND s.deptype = 'o' AND s.refobjid <> d.datdba});
	return \%rows;
}

# What else shared catalogs and statistics have under a database's OID, and a fresh database has not.
sub described
{
	my ($admin, $oid) = @_;
	my %rows;
	$rows{pg_shdescription} = $admin->query(
		"SELECT description FROM pg_shdescription WHERE objoid = $oid AND classoid = 'pg_database'::regclass");
	$rows{pg_shseclabel} =
	  $admin->query("SELECT label FROM pg_shseclabel WHERE objoid = $oid AND classoid = 'pg_database'::regclass");
	$rows{pg_stat_database} = $admin->query(
		qq{
		SELECT coalesce(xact_commit + xact_rollback + blks_read + blks_hit + tup_returned
			+ tup_fetched + tup_inserted + tup_updated + tup_deleted + temp_files + deadlocks
			+ sessions, 0)
		FROM pg_stat_database WHERE datid = $oid});
	$rows{pg_locks} = $admin->query("SELECT count(*) FROM pg_locks WHERE database = $oid");
	$rows{pg_stat_activity} = $admin->query("SELECT count(*) FROM pg_stat_activity WHERE datid = $oid");
	$rows{pg_replication_slots} = $admin->query("SELECT count(*) FROM pg_replication_slots WHERE datoid = $oid");
	$rows{pg_subscription} = $admin->query("SELECT count(*) FROM pg_subscription WHERE subdbid = $oid");
	return \%rows;
}

# Are all workers there, with nothing to do?
sub is_idle
{
	my ($client) = @_;
	return run(
		$client, q{
		SELECT count(*) = current_setting('testdb.workers')::int FROM pg_stat_activity
		WHERE backend_type = 'testdb worker' AND state = 'idle' AND wait_event_type = 'Extension'}) eq 't';
}

# The state of a process as proc(5) has it: T if it is stopped; X if it is gone.
sub state_of
{
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/stat" or return 'X';
	my $line = <$in> // '';
	close $in;
	return $line =~ /\) (\S) / ? $1 : 'X';
}

# Kills processes with signal 9; how many there were. With $whole_writes each has finished its system call before that, so that no page is torn:
# PostgreSQL can't repair one with full_page_writes = off.
sub kill_pids
{
	my ($whole_writes, @pids) = @_;
	return 0 unless @pids;
	if ($whole_writes)
	{
		kill 'STOP', @pids;
		poll(
			sub {
				!grep { state_of($_) !~ /[TtZX]/ } @pids;
			},
			5);
	}
	return kill 'KILL', @pids;
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

# How many processes the kernel has ended for want of memory in the control group with this folder; undef if it does not tell.
sub oom_kills
{
	my ($group) = @_;
	my $file = -e "$group/memory.oom_control" ? 'memory.oom_control' : 'memory.events';
	my ($n) = slurp_file("$group/$file") =~ /^oom_kill (\d+)/m;
	return $n;
}

1;
