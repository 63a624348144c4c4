
# What happens at each limit: no more space, no more inodes, too many clones, too many templates. The error says so, the
# server goes on, and when something has been dropped all works again.
#
# The file systems are small ones in memory, which takes a namespace of mounts where we are somebody's root. Who is not
# allowed to make one skips these parts.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

# Start again in a mount namespace, as the same user (postgres does not run as root), if that is possible.
BEGIN
{
	my @inside = $> == 0 ? () : qw(unshare --user --mount --map-current-user --keep-caps);
	if (@inside && !$ENV{TESTDB_MOUNTS})
	{
		my $can =
		  'd=$(mktemp -d) && mount -t tmpfs -o size=1m none "$d"; s=$?; umount "$d" 2>/dev/null; rmdir "$d"; exit $s';
		$ENV{TESTDB_MOUNTS} =
		  system("unshare --user --mount --map-current-user --keep-caps sh -c '$can' >/dev/null 2>&1") == 0
		  ? 'yes'
		  : 'no';
		if ($ENV{TESTDB_MOUNTS} eq 'yes')
		{
			exec @inside, $^X, map({ "-I$_" } @INC), $0, @ARGV or die "unshare: $!";
		}
	}
}

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbHold;
use TestdbTest;

my $template = 'regression_template';
my $other = 'regression_other';

# Makes both templates, and a role.
sub populate
{
	my ($node) = @_;
	my $admin = connect_to($node, 'postgres');
	run($admin, $_)
	  for "CREATE DATABASE $template IS_TEMPLATE true", "CREATE DATABASE $other IS_TEMPLATE true",
	  'CREATE ROLE regress_user LOGIN',
	  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_prewarm TO regress_user';
	my $client = connect_to($node, $template);
	run($client, 'CREATE TABLE t AS SELECT generate_series(1, 10) AS n');
	$client->close;
	return $admin;
}

# A clone can be made, used and dropped.
sub works
{
	my ($node, $admin, $title) = @_;
	my $name = $admin->query("SELECT testdb_clone('$template')");
	ok($name, "$title: a clone is made") or return diag told($admin);
	my $client = connect_to($node, $name);
	is($client->query('SELECT count(*) FROM t'), 10, "$title: it has its content");
	ok($client->do('INSERT INTO t VALUES (11)'), "$title: it can be written to");
	$client->close;
	return is($admin->query("SELECT testdb_drop('$name')"), 't', "$title: it is dropped");
}

# Makes clones until that fails, or too many are there; how many there are.
sub fill
{
	my ($admin, $max) = @_;
	for my $n (0 .. $max)
	{
		return $n unless $admin->do("SELECT testdb_clone('$template')");
	}
	return $max + 1;
}

# Databases, directories and leases, as numbers; all of what testdb has made must be known to it.
sub adds_up
{
	my ($node, $admin, $title) = @_;
	my ($known, $found) = ('', '-');
	poll(
		sub {
			return 0 unless is_idle($admin);
			$known = join ' ', sort { $a <=> $b } split /\n/, run($admin, 'SELECT oid FROM testdb_clones()');
			$found = join ' ', sort { $a <=> $b } map { m{/(\d+)$} } glob($node->data_dir . '/pg_testdb/clones/*');
			return $known eq $found;
		},
		15);
	is($found, $known, "$title: leases and what is known add up");
	my $databases = run($admin, 'SELECT oid FROM pg_database ORDER BY oid');
	return is(join("\n", sort { $a <=> $b } map { m{/(\d+)$} } glob($node->data_dir . '/base/*')),
		$databases, "$title: directories and databases add up");
}

# Takes all spares, and drops them for good.
sub keep_no_spares
{
	my ($node, $admin) = @_;
	set_conf($node, 'reload', 'testdb.recycled' => 0);
	poll(sub { run($admin, 'SHOW testdb.recycled') eq '0' }) or die 'no reload';
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
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $data = $node->data_dir;
	mkdir $data or die "mkdir $data: $!";
	system('mount', '-t', 'tmpfs', '-o', $mount_options, 'testdb', $data) == 0 or die "mount: $?";
	chmod 0700, $data;
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

# What no error may come to, in the server's log.
sub trouble
{
	my ($node) = @_;
	return join "\n", grep { /PANIC|TRAP|signal (6|9|11)/ } split /\n/, slurp_file($node->logfile);
}

SKIP:
{
	skip 'no right to mount a file system', 1 if ($ENV{TESTDB_MOUNTS} // '') ne 'yes';

	# Where copies of small files are slow the log says so, and only there.
	for my $huge ('always', 'never')
	{
		next if $huge eq 'always' && !can_mount('size=1m,huge=always');
		my $node = small_server("huge_$huge", "size=200m,huge=$huge", 'testdb.min_free_space = 16MB');
		my $message =
		  qr/WARNING:  file system of the data directory is mounted with "huge=always"\n.*DETAIL:  .*\n.*HINT:  Mount it with "huge=never"/;
		poll(sub { $node->log_contains(qr/database system is ready/) });
		run(connect_to($node, 'postgres'), 'SELECT count(*) FROM testdb_clones()');
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
				told($admin),
				qr/^53100: not enough free space for another database\nIt needs \d+ kB.*"testdb.min_free_space".*\nDrop databases/,
				"$title: then there is an error");
			my $again = connect_to($node, 'postgres');
			run($again, "SET testdb.method = '$method'");
			ok(!$again->do("SELECT testdb_clone('$template')"), "$title: and again");
			is($again->sqlstate, '53100', "$title: by the same SQLSTATE");
			$again->close;
			ok( $admin->do('CREATE TABLE x AS SELECT generate_series(1, 10000)')
				  && $admin->do('DROP TABLE x; CHECKPOINT'),
				"$title: the server goes on");
			my $name = run($admin, 'SELECT name FROM testdb_clones LIMIT 1');
			ok($admin->do("SELECT testdb_reset('$name')"), "$title: a reset works")
			  or diag told($admin)
			  if $method eq 'native';
			adds_up($node, $admin, $title);
			my $left = run($admin, 'SELECT count(*) FROM testdb_clones');
			is($left, $n, "$title: all clones are there");
			is(run($admin, 'SELECT testdb_drop_all()'), $left, "$title: all are dropped");
			works($node, $admin, $title);
			adds_up($node, $admin, "$title, in the end");
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
		print $out "x" x 1024 for 1 .. $kb;
		close $out or die "close: $!";
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
		  or diag told($admin);
		run($admin, 'RESET testdb.method');
		unlink $filler;
		run($admin, 'SELECT testdb_drop_all()');
	}

	# Where there is room for one more, two that ask at the same time do not both get it.
	keep_no_spares($node, $admin);
	{
		my @clients = map { connect_to($node, 'postgres') } 1 .. 2;
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
	adds_up($node, $admin, 'room for one');

	# Filled by somebody else's table, to the last byte. The table is unlogged and a WAL segment has been begun: core's own
	# PANIC, when there is no room for another one, is not what is looked for. testdb must write none of its size then.
	run($admin, "SELECT testdb_clone('$template', 'regression_full')");
	run($admin, "SELECT testdb_clone('$template', 'regression_keep')");
	run($admin, "SELECT testdb_clone('$template', 'regression_drop')");
	run($admin, q{SET testdb.method = 'file_copy'});
	run($admin, "SELECT testdb_clone('$template', 'regression_copy_$_')") for 1, 2;
	run($admin, 'RESET testdb.method');
	my $user = connect_to($node, 'regression_full');
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
			  or diag told($admin);
			is($admin->sqlstate, '53100', "full, $method, $call: refused") if $call =~ /clone/;
		}
	}
	run($admin, 'RESET testdb.method');
	is($admin->query('SELECT 1'), 1, 'full: the session goes on');

	# A checkpoint would be the end of the server now.
	ok(!$admin->do(q{SELECT testdb_reset('regression_keep')}), 'full: a reset is refused');
	is($admin->sqlstate, '53100', 'full: a reset is refused, SQLSTATE') or diag told($admin);
	is(trouble($node), '', 'full: no PANIC');

	# What it takes to drop some was held in reserve; when that is used up, too, there is an error.
	my $fill = sub {
		system(
			"dd if=/dev/zero of=$filler.$_[0] bs=4k >/dev/null 2>&1; dd if=/dev/zero of=$filler.$_[0]x bs=1 count=4096 >/dev/null 2>&1"
		);
	};
	my $copy_oid = run($admin, q{SELECT oid FROM pg_database WHERE datname = 'regression_copy_1'});
	is($admin->query(q{SELECT testdb_drop('regression_copy_1')}), 't', 'full: a copy is dropped all the same')
	  or diag told($admin);
	ok(!-e $node->data_dir . "/base/$copy_oid", 'full: its files have gone');
	$fill->(3);
	ok(!$admin->do(q{SELECT testdb_drop('regression_copy_2')}), 'full, with no reserve: a copy is not dropped');
	like(
		told($admin),
		qr/^53100: not enough free space to drop database "regression_copy_2"\nDropping it requires a checkpoint.*\nFree some space/,
		'full, with no reserve: error');
	is(run($admin, q{SELECT state FROM testdb_clones WHERE name = 'regression_copy_2'}),
		'leased', 'full, with no reserve: the copy stays');
	ok(!$admin->do(q{SELECT testdb_drop('regression_drop')}), 'full, with no reserve: nor is a native clone')
	  if run($admin, 'SHOW testdb.recycled') eq '0';
	is(trouble($node), '', 'full, with no reserve: no PANIC');
	unlink glob("$filler*");
	ok(poll(sub { $admin = connect_to($node, 'postgres'); !$admin->error && $admin->do('CHECKPOINT') }, 20),
		'full: the server is there');
	ok($user->do('TRUNCATE big'), 'full: the table goes') or diag told($user);
	run($admin, 'CHECKPOINT');
	$user->close;
	ok($admin->do('SELECT testdb_drop_all()'), 'full: clones can be dropped when there is some room')
	  or diag told($admin);
	is(run($admin, 'SELECT count(*) FROM testdb_clones'), 0, 'full: none is left');
	works($node, $admin, 'after it was full');
	adds_up($node, $admin, 'after it was full');
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
			told($admin),
			qr/^53100: not enough free inodes for another database\nIt has \d+ files; the file system has \d+ inodes left\.\nDrop databases/,
			"$title: then there is an error");
		ok( $admin->do('CREATE TABLE x AS SELECT generate_series(1, 10000)') && $admin->do('DROP TABLE x; CHECKPOINT'),
			"$title: the server goes on");
		is(run($admin, 'SELECT testdb_drop_all()'), $n, "$title: all are dropped");
		works($node, $admin, $title);
		adds_up($node, $admin, $title);
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
		is($admin->sqlstate, '53100', "no inode, $method: SQLSTATE") or diag told($admin);
	}
	ok($admin->do(q{SELECT testdb_keep('regression_keep', '1 hour')}), 'no inode: a clone can be kept')
	  or diag told($admin);
	is($admin->query(q{SELECT testdb_drop('regression_drop')}), 't', 'no inode: a clone can be dropped')
	  or diag told($admin);
	unlink glob($node->data_dir . '/filler/*');
	rmdir $node->data_dir . '/filler';
	is($admin->query(q{SELECT testdb_drop('regression_keep')}),
		't', 'no inode: when there are some, a clone can be dropped')
	  or diag told($admin);
	run($admin, 'RESET testdb.method');
	works($node, $admin, 'after inodes had run out');
	adds_up($node, $admin, 'after inodes had run out');
	is(trouble($node), '', 'no inode: no PANIC');
	$node->stop;
}

#
# testdb.max_clones, with spares that others are given up for; testdb.max_templates.
#
my $node = new_server(
	'main', q{
testdb.max_clones = 6
testdb.max_templates = 3
testdb.spares = 0
});
my $admin = populate($node);
my $user = connect_to($node, 'postgres', user => 'regress_user');
my $spares = q{SELECT coalesce(sum(spares), 0) FROM testdb_templates};
my $too_many =
  qr/^53400: too many databases created by testdb\nAll 6 are in use\.\nDrop some with testdb_drop, or increase "testdb.max_clones"\./;

# Spares of another template are given up, one by one, for who needs the room.
ok(run($admin, "SELECT testdb_prewarm('$other', 3)") >= 3, 'max_clones: there are spares of another template');
is(fill($admin, 10), 6, 'max_clones: as many clones as there may be, with those in the way given up');
like(told($admin), $too_many, 'max_clones: then there is an error');
is(run($admin, $spares), 0, 'max_clones: there are no spares');
ok(!$admin->do("SELECT testdb_clone('$other')"), 'max_clones: of any template');
like(told($admin), $too_many, 'max_clones: error');
ok(!$user->do("SELECT testdb_clone('$template')"), 'max_clones: for any role');
like(told($user), $too_many, 'max_clones: error');
run($admin, q{SET testdb.method = 'file_copy'});
ok(!$admin->do("SELECT testdb_clone('$template')"), 'max_clones: by any method');
like(told($admin), $too_many, 'max_clones: error');
run($admin, 'RESET testdb.method');
my $name = run($admin, 'SELECT name FROM testdb_clones LIMIT 1');
ok($admin->do("SELECT testdb_reset('$name')"), 'max_clones: a reset needs no room') or diag told($admin);
is(run($admin, "SELECT testdb_drop('$name')"), 't', 'max_clones: a drop makes room');
ok($admin->do("SELECT testdb_clone('$template')"), 'max_clones: for another') or diag told($admin);
is(run($admin, 'SELECT testdb_drop_all()'), 6, 'max_clones: all are dropped');
adds_up($node, $admin, 'max_clones');

# What was dropped are spares by now, of another owner: the same.
poll(sub { is_idle($admin) && run($admin, $spares) > 0 }) or die 'nothing is recycled';
is(fill($user, 10), 6, 'max_clones: spares of another owner are given up');
like(told($user), $too_many, 'max_clones: then there is an error');
is(run($user, 'SELECT testdb_drop_all()'), 6, 'max_clones: all are dropped again');
works($node, $admin, 'max_clones');
adds_up($node, $admin, 'max_clones, another owner');

# More spares than there is room for.
$admin->do("SELECT testdb_prewarm('$template', 6)");
ok($admin->sqlstate eq '00000' || $admin->sqlstate eq '53400', 'max_clones: as many spares as clones');
works($node, $admin, 'max_clones, all of them spares');
works($node, $user, 'max_clones, all of them spares, another owner');
run($admin, 'SELECT testdb_drop_all()');

# Many sessions at the limit at once: never more than that, and each gets a clone or the error, also where spares of another
# template have to be given up, so that one worker may take the room that another has made.
{
	my @clients = map { connect_to($node, 'postgres') } 1 .. 10;
	for my $round (1 .. 4)
	{
		if ($round > 2)
		{
			poll(sub { is_idle($admin) });
			$admin->do("SELECT testdb_prewarm('$other', 5)");
			ok(poll(sub { run($admin, $spares) >= 4 }), "max_clones, ten at once, $round: there are spares");
		}
		$_->send("SELECT testdb_clone('$template')") for @clients;
		my @results = map { $_->result } @clients;
		is(scalar(grep { !$_->{error} } @results), 6, "max_clones, ten at once, $round: six get one");
		is(join(' ', grep { $_ ne '53400' } map { $_->{error} ? $_->{error}{C} : () } @results),
			'', "max_clones, ten at once, $round: others an error");
		is(run($admin, 'SELECT testdb_drop_all()'), 6, "max_clones, ten at once, $round: all are dropped");
	}
}
adds_up($node, $admin, 'max_clones, ten at once');

# Templates: those without clones make way, whether or not spares were left; those with clones don't.
run($admin, "CREATE DATABASE regression_$_") for 'a' .. 'd';
ok(poll(sub { is_idle($admin) && run($admin, $spares) > 0 }), 'max_templates: one has no clones, but spares');
for my $name ('a' .. 'c')
{
	ok($admin->do("SELECT testdb_clone('regression_$name', 'regression_of_$name')"),
		"max_templates: regression_$name can be cloned")
	  or diag told($admin);
}
ok(!$admin->do(q{SELECT testdb_clone('regression_d')}), 'max_templates: one too many');
like(
	told($admin),
	qr/^53400: too many templates have clones\nAll 3 are in use\.\nDrop all clones of a template, or increase "testdb.max_templates"\./,
	'max_templates: error');
ok( !$admin->do(q{SELECT testdb_prewarm('regression_d', 1)})
	  || run($admin, q{SELECT count(*) FROM testdb_templates WHERE name = 'regression_d'}) == 0,
	'max_templates: no spares for it');
ok($admin->do(q{SELECT testdb_clone('regression_b', 'regression_b2')}), 'max_templates: the others can be cloned')
  or diag told($admin);
is($admin->query(q{SELECT testdb_drop('regression_of_a')}), 't', 'max_templates: clones of one are dropped');
ok($admin->do(q{SELECT testdb_clone('regression_d', 'regression_of_d')}), 'max_templates: it makes way')
  or diag told($admin);
is( run($admin, 'SELECT string_agg(name, \' \' ORDER BY name) FROM testdb_templates WHERE clones > 0'),
	'regression_b regression_c regression_d',
	'max_templates: the view has those with clones');
is(run($admin, 'SELECT testdb_drop_all()'), 4, 'max_templates: all are dropped');
works($node, $admin, 'max_templates');
adds_up($node, $admin, 'max_templates');
is(trouble($node), '', 'no crash');
$node->stop;
done_testing();
