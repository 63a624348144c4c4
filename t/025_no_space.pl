
# What happens when there is no more space on disk, or there are no more inodes. The error says so, the server goes on, and when
# something has been dropped all works again.
#
# The file systems are small ones in memory; who is not allowed to make one skips all of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use TestdbNamespace;

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbLimits;
use TestdbTest;

# Takes all spares, and drops them for good.
sub keep_no_spares
{
	my ($node, $admin) = @_;
	$node->set_conf('reload', 'testdb.recycled' => 0);
	my @spares;
	poll(
		sub {
			push @spares, run($admin, "SELECT testdb_clone('$template')")
			  while run($admin, 'SELECT sum(spares) FROM testdb_templates') > 0;
			run($admin, 'SELECT testdb_drop_all()');
			return is_idle($admin) && run($admin, 'SELECT count(*) FROM testdb_clones()') == 0;
		}) or die 'there are always spares';
	return;
}

# A server whose data directory is on a file system of its own; nothing if there can be none.
sub small_server
{
	my ($name, $mount_options, $settings) = @_;
	my $node = TestdbCluster->new($name);
	mount_small($node, $mount_options);
	$node->init;
	$node->append_conf(
		'postgresql.conf', qq{
log_statement = none
autovacuum = off
max_connections = 20
shared_buffers = 16MB
max_wal_size = 32MB
min_wal_size = 32MB
wal_recycle = off
restart_after_crash = on
testdb.spares = 0
$settings
});
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION testdb');
	return $node;
}

# Can a file system be mounted with these options?
sub can_mount
{
	my ($mount_options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	return 0 if system("mount -t tmpfs -o $mount_options testdb $dir 2>/dev/null") != 0;
	system('umount', $dir);
	return 1;
}

SKIP:
{
	skip 'no right to mount a file system', 1 unless can_mount_small();

	# Where copies of small files are slow the log says so, and only there.
	for my $huge ('always', 'never')
	{
		next if $huge eq 'always' && !can_mount('size=1m,huge=always');
		my $node = small_server("huge_$huge", "size=200m,huge=$huge", 'testdb.min_free_space = 16MB');
		my $message =
		  qr/WARNING:  file system of the data directory is mounted with "huge=always"\n.*DETAIL:  .*\n.*HINT:  Mount it with "huge=never"/;
		poll(sub { $node->log_contains(qr/database system is ready/) });
		run($node->connect_to('postgres'), 'SELECT count(*) FROM testdb_clones()');
		$huge eq 'always'
		  ? like(slurp_file($node->logfile), $message, 'huge=always: the log says so')
		  : unlike(slurp_file($node->logfile), $message, 'huge=never: nothing is said');
		$node->stop;
	}

	# By bytes.
	my $node = small_server('bytes', 'size=300m', 'testdb.min_free_space = 64MB');
	my $admin = populate($node);
	for my $method ('file_copy', 'native')
	{
		for my $round (1, 2)
		{
			my $title = "300 MB, $method, $round";
			run($admin, "SET testdb.method = '$method'");
			my $n = fill($admin, 100);
			ok($n > 3 && $n < 50, "$title: some clones fit ($n)");
			like(
				$admin->told,
				qr/^53100: not enough free space for another database\nIt needs \d+ kB.*"testdb.min_free_space".*\nDrop databases/,
				"$title: then there is an error");
			my $again = $node->connect_to('postgres');
			run($again, "SET testdb.method = '$method'");
			ok(!$again->do("SELECT testdb_clone('$template')"), "$title: and again");
			is($again->sqlstate, '53100', "$title: by the same SQLSTATE");
			$again->close;
			ok( $admin->do('CREATE TABLE x AS SELECT generate_series(1, 10000)')
				  && $admin->do('DROP TABLE x; CHECKPOINT'),
				"$title: the server goes on");
			my $name = run($admin, 'SELECT name FROM testdb_clones LIMIT 1');
			ok($admin->do("SELECT testdb_reset('$name')"), "$title: a reset works")
			  or diag $admin->told
			  if $method eq 'native';
			$node->adds_up($admin, $title);
			my $left = run($admin, 'SELECT count(*) FROM testdb_clones');
			is($left, $n, "$title: all clones are there");
			is(run($admin, 'SELECT testdb_drop_all()'), $left, "$title: all are dropped");
			works($node, $admin, $title);
			$node->adds_up($admin, "$title, in the end");
		}
	}
	run($admin, 'RESET testdb.method');

	# Leaves room for so many copies of the template, and a half, above testdb.min_free_space.
	my $filler = $node->data_dir . '/filler';
	my $size = run($admin, "SELECT max(bytes) FROM testdb_templates WHERE name = '$template'");
	my $leave_room = sub {
		my ($copies) = @_;
		run($admin, 'CHECKPOINT');
		unlink $filler;
		open my $out, '>', $filler or die "open: $!";
		my $kb =
		  int(((1024 * (split ' ', `df -Pk $filler | tail -n 1`)[3]) - 64 * 1024 * 1024 - ($copies + 0.5) * $size) /
			  1024);
		close $out;
		system('fallocate', '-l', "${kb}KiB", $filler) == 0 or die "fallocate: $?";
		return;
	};

	# By another method than the native one spares are of no use, whoever's they are.
	for my $method ('file_copy', 'wal_log')
	{
		run($admin, "SELECT testdb_prewarm('$template', 4)");

		# No more of them are made afterwards.
		run($admin, "SELECT testdb_template_set('$template', 0)");
		poll(sub { is_idle($admin) });
		$leave_room->(0);
		run($admin, "SET testdb.method = '$method'");
		ok($admin->do("SELECT testdb_clone('$template')"), "full, $method: the role's own spares make way")
		  or diag $admin->told;
		run($admin, 'RESET testdb.method');
		unlink $filler;
		run($admin, 'SELECT testdb_drop_all()');
	}

	# Where there is room for one more, two that ask at the same time do not both get it.
	keep_no_spares($node, $admin);
	{
		my @clients = map { $node->connect_to('postgres') } 1 .. 2;
		for my $method ('file_copy', 'native')
		{
			run($_, "SET testdb.method = '$method'") for @clients;
			for my $round (1 .. 5)
			{
				$leave_room->(1);
				$_->send("SELECT testdb_clone('$template')") for @clients;
				my @told = map { my $result = $_->result; $result->{error} ? $result->{error}{C} : 'ok' } @clients;
				is(join(' ', sort @told), '53100 ok', "room for one, $method, $round: one of two gets it");
				unlink $filler;
				run($admin, 'SELECT testdb_drop_all()');
				poll(sub { is_idle($admin) && run($admin, 'SELECT count(*) FROM testdb_clones()') == 0 })
				  or die 'clones are left';
			}
		}
	}
	$node->adds_up($admin, 'room for one');

	# Filled by somebody else's table, to the last byte. The table is unlogged and a WAL segment has been begun: core's own
	# PANIC, when there is no room for another one, is not what is looked for. testdb must write none of its size then.
	run($admin, "SELECT testdb_clone('$template', 'regression_full')");
	run($admin, "SELECT testdb_clone('$template', 'regression_keep')");
	run($admin, "SELECT testdb_clone('$template', 'regression_drop')");
	run($admin, q{SET testdb.method = 'file_copy'});
	run($admin, "SELECT testdb_clone('$template', 'regression_copy_$_')") for 1, 2;
	run($admin, 'RESET testdb.method');
	my $user = $node->connect_to('regression_full');
	run($user, 'CREATE UNLOGGED TABLE big (a text)');
	run($admin, $_) for 'CHECKPOINT', 'SELECT pg_switch_wal()', 'CHECKPOINT';
	# Room for the checkpoint that comes when this is over.
	system("dd if=/dev/zero of=$filler.1 bs=4k count=5000 >/dev/null 2>&1");
	$user->do(q{INSERT INTO big SELECT repeat('x', 1000) FROM generate_series(1, 20000)}) for 1 .. 20;
	is($user->sqlstate, '53100', 'full: a table has filled the file system');
	system(
		"dd if=/dev/zero of=$filler bs=4k >/dev/null 2>&1; dd if=/dev/zero of=$filler.2 bs=1 count=4096 >/dev/null 2>&1"
	);
	my @calls = (
		"testdb_clone('$template')",
		"testdb_clone('$other')",
		"testdb_clone('$template', 'regression_no')",
		"testdb_prewarm('$template', 3)",
		q{testdb_keep('regression_keep', '1 hour')});
	for my $method ('native', 'file_copy', 'wal_log')
	{
		run($admin, "SET testdb.method = '$method'");
		for my $call (@calls)
		{
			next if $call =~ /prewarm/ && $method ne 'native';
			$admin->do("SELECT $call");
			like($admin->sqlstate, qr/^(53100|00000|55006|3D000)$/, "full, $method, $call: " . $admin->sqlstate)
			  or diag $admin->told;
			is($admin->sqlstate, '53100', "full, $method, $call: refused") if $call =~ /clone/;
		}
	}
	run($admin, 'RESET testdb.method');
	is($admin->query('SELECT 1'), 1, 'full: the session goes on');

	# A checkpoint would be the end of the server now.
	ok(!$admin->do(q{SELECT testdb_reset('regression_keep')}), 'full: a reset is refused');
	is($admin->sqlstate, '53100', 'full: a reset is refused, SQLSTATE') or diag $admin->told;
	is(trouble($node), '', 'full: no PANIC');

	# What it takes to drop some was held in reserve; when that is used up, too, there is an error.
	my $fill = sub {
		system(
			"dd if=/dev/zero of=$filler.$_[0] bs=4k >/dev/null 2>&1; dd if=/dev/zero of=$filler.$_[0]x bs=1 count=4096 >/dev/null 2>&1"
		);
	};
	my $copy_oid = run($admin, q{SELECT oid FROM pg_database WHERE datname = 'regression_copy_1'});
	is($admin->query(q{SELECT testdb_drop('regression_copy_1')}), 't', 'full: a copy is dropped all the same')
	  or diag $admin->told;
	ok(!-e $node->data_dir . "/base/$copy_oid", 'full: its files have gone');
	$fill->(3);
	ok(!$admin->do(q{SELECT testdb_drop('regression_copy_2')}), 'full, with no reserve: a copy is not dropped');
	like(
		$admin->told,
		qr/^53100: not enough free space to drop database "regression_copy_2"\nDropping it requires a checkpoint.*\nFree some space/,
		'full, with no reserve: error');
	is(run($admin, q{SELECT state FROM testdb_clones WHERE name = 'regression_copy_2'}),
		'leased', 'full, with no reserve: the copy stays');
	ok(!$admin->do(q{SELECT testdb_drop('regression_drop')}), 'full, with no reserve: nor is a native clone')
	  if run($admin, 'SHOW testdb.recycled') eq '0';
	is(trouble($node), '', 'full, with no reserve: no PANIC');
	unlink glob("$filler*");
	ok(poll(sub { $admin = $node->connect_to('postgres'); !$admin->error && $admin->do('CHECKPOINT') }, 20),
		'full: the server is there');
	ok($user->do('TRUNCATE big'), 'full: the table goes') or diag $user->told;
	run($admin, 'CHECKPOINT');
	$user->close;
	ok($admin->do('SELECT testdb_drop_all()'), 'full: clones can be dropped when there is some room')
	  or diag $admin->told;
	is(run($admin, 'SELECT count(*) FROM testdb_clones'), 0, 'full: none is left');
	works($node, $admin, 'after it was full');
	$node->adds_up($admin, 'after it was full');
	is(trouble($node), '', 'no PANIC in all of it');
	$node->stop;

	# By inodes: many small files are what a database is.
	$node = small_server('inodes', 'size=1g,nr_inodes=6000', 'testdb.min_free_space = 64MB');
	$admin = populate($node);
	for my $method ('file_copy', 'native')
	{
		my $title = "6000 inodes, $method";
		run($admin, "SET testdb.method = '$method'");
		my $n = fill($admin, 100);
		ok($n > 2 && $n < 30, "$title: some clones fit ($n)");
		like(
			$admin->told,
			qr/^53100: not enough free inodes for another database\nIt has \d+ files; the file system has \d+ inodes left\.\nDrop databases/,
			"$title: then there is an error");
		ok( $admin->do('CREATE TABLE x AS SELECT generate_series(1, 10000)') && $admin->do('DROP TABLE x; CHECKPOINT'),
			"$title: the server goes on");
		is(run($admin, 'SELECT testdb_drop_all()'), $n, "$title: all are dropped");
		works($node, $admin, $title);
		$node->adds_up($admin, $title);
	}
	# None left at all.
	run($admin, 'RESET testdb.method');
	keep_no_spares($node, $admin);
	run($admin, "SELECT testdb_clone('$template', 'regression_$_')") for 'keep', 'drop';
	mkdir $node->data_dir . '/filler' or die "mkdir: $!";
	my $count = 0;
	while (open my $file, '>', $node->data_dir . '/filler/' . $count) { $count++ }
	ok($count > 0 && $!{ENOSPC}, 'no inode: there is none');

	for my $method ('native', 'file_copy', 'wal_log')
	{
		run($admin, "SET testdb.method = '$method'");
		ok(!$admin->do("SELECT testdb_clone('$template')"), "no inode, $method: refused");
		is($admin->sqlstate, '53100', "no inode, $method: SQLSTATE") or diag $admin->told;
	}
	ok($admin->do(q{SELECT testdb_keep('regression_keep', '1 hour')}), 'no inode: a clone can be kept')
	  or diag $admin->told;
	is($admin->query(q{SELECT testdb_drop('regression_drop')}), 't', 'no inode: a clone can be dropped')
	  or diag $admin->told;
	unlink glob($node->data_dir . '/filler/*');
	rmdir $node->data_dir . '/filler';
	is($admin->query(q{SELECT testdb_drop('regression_keep')}),
		't', 'no inode: when there are some, a clone can be dropped')
	  or diag $admin->told;
	run($admin, 'RESET testdb.method');
	works($node, $admin, 'after inodes had run out');
	$node->adds_up($admin, 'after inodes had run out');
	is(trouble($node), '', 'no inode: no PANIC');
	$node->stop;
}
done_testing();
