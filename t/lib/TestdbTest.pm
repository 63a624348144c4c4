
# What the tests of the engine share: a server, sessions, and ways to look at a database from outside.

package TestdbTest;

use strict;
use warnings;

use Carp;
use Digest::MD5;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TestdbClient;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT =
  qw(how_much new_server has_contrib connect_to session run oid_of poll spare_of dump_of files_of differences
  row_columns catalog_rows described is_same_database);

# How much a test does that could go on for ever: what the environment says by this name, or by itself as much as the run is meant
# to last. A run is long if TESTDB_LONG is set, as continuous integration does.
sub how_much
{
	my ($name, $short, $long) = @_;
	return $ENV{$name} // ($ENV{TESTDB_LONG} ? $long : $short);
}

# A server with testdb in its database postgres, started; settings are lines for its configuration. No databases are made
# ahead unless they say so: then it is known which one is handed out next.
#
# Without TEMP_CONFIG there is nothing that loads testdb: see test/run.
sub new_server
{
	my ($name, $settings, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%params);
	$node->append_conf(
		'postgresql.conf', qq{
log_statement = none
autovacuum = off
max_connections = 60
shared_buffers = 32MB
testdb.spares = 0
$settings
});
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION testdb');
	return $node;
}

# Whether PostgreSQL has this extension of contrib. Some builds have none; a test then skips what needs it, and nothing else.
sub has_contrib
{
	my ($name) = @_;
	my ($folder, $err) = run_command([ $ENV{PG_CONFIG} || 'pg_config', '--sharedir' ]);
	die "pg_config: $err" if $folder eq '';
	return -e "$folder/extension/$name.control";
}

# A session in a database of this server.
sub connect_to
{
	my ($node, $db, %args) = @_;
	return TestdbClient->new(
		host => $node->host,
		port => $node->port,
		db => $db,
		%args);
}

# The same, which must succeed.
sub session
{
	my ($node, $db, %args) = @_;
	my $client = connect_to($node, $db, %args);
	die "$db: " . $client->message if $client->error;
	return $client;
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
	my $end = time + ($seconds || 30);
	for (;;)
	{
		my $result = $function->();
		return $result if $result;
		if (time > $end)
		{
			croak 'what was waited for has not come' unless defined wantarray || $seconds;
			return undef;
		}
		usleep(2000);
	}
}

# Waits until a database that was dropped is ready to be handed out, and returns the name that it then has; undef if it
# has gone instead.
sub spare_of
{
	my ($admin, $oid, $old_name) = @_;
	my $name;
	poll(
		sub {
			my ($row) = $admin->rows(
				qq{
				SELECT datname, datconnlimit,
					(SELECT coalesce(sum(recycling), 0) FROM testdb_templates)
				FROM pg_database WHERE oid = $oid});
			$name = $row ? $row->[0] : undef;
			return !$row
			  || ($row->[0] ne $old_name && $row->[1] != -2 && $row->[2] == 0);
		}) or die "database $old_name is neither recycled nor removed";
	return $name;
}

# pg_dump of a database, without what differs from one run to the next.
sub dump_of
{
	my ($node, $db) = @_;
	my ($out, $err) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, '--blobs', $db ]);
	die "pg_dump of $db: $err" if $err ne '';
	$out =~ s/^\\(un)?restrict .*$//mg;
	return $out;
}

# The files in a database's directory: name => checksum. Nothing of it is read from the server's memory.
sub files_of
{
	my ($node, $oid) = @_;
	my $dir = $node->data_dir . "/base/$oid";
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

# Tests that a database that nobody has connected to yet equals another one, which is flushed, in files and catalogs.
sub is_same_database
{
	my ($node, $admin, $oid, $wanted_oid, $title) = @_;
	my $files = differences(files_of($node, $wanted_oid), files_of($node, $oid));
	my $rows = differences(catalog_rows($admin, $wanted_oid), catalog_rows($admin, $oid));
	return is($files, '', "$title: files") & is($rows, '', "$title: catalogs");
}

1;
