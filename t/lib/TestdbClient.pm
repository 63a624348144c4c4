
# A client that speaks just enough of PostgreSQL's protocol for the tests here.
#
# psql takes 15 ms to start, and its answers have to be parsed; a test that opens a thousand sessions, or eight at a time,
# wants neither. One object is one session. Methods return, they don't die: an error is part of what is tested.

package TestdbClient;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(IPPROTO_TCP TCP_NODELAY);

# new TestdbClient(host => socket folder or IPv4 address, port => , db => , user => , timeout => seconds for any one answer)
#
# error() tells whether that worked.
sub new
{
	my ($class, %args) = @_;
	my $self = bless {
		timeout => $args{timeout} || 60,
		buffer => '',
		notifications => [],
		error => undef,
		open => 0,
		pid => 0
	}, $class;

	$self->{socket} =
	  $args{host} =~ m{^/}
	  ? IO::Socket::UNIX->new(Peer => "$args{host}/.s.PGSQL.$args{port}")
	  : IO::Socket::INET->new(PeerAddr => $args{host}, PeerPort => $args{port}, Proto => 'tcp');
	unless ($self->{socket})
	{
		$self->{error} = { C => '08001', M => "could not connect: $!" };
		return $self;
	}
	$self->{open} = 1;
	setsockopt $self->{socket}, IPPROTO_TCP, TCP_NODELAY, 1 unless $args{host} =~ m{^/};

	my %options = (
		user => $args{user} || scalar getpwuid($<),
		database => $args{db},
		client_encoding => 'UTF8',
		application_name => $args{name} || 'testdb test');
	my $body = pack('N', 196608) . join('', map { "$_\0$options{$_}\0" } sort keys %options) . "\0";
	$self->_write(pack('N', 4 + length $body) . $body);
	$self->{error} = $self->result->{error};
	return $self;
}

# The error of the last answer: a hash of its fields (C SQLSTATE, M message, D detail, H hint), or undef.
sub error
{
	my ($self) = @_;
	return $self->{error};
}

# Its SQLSTATE, or '00000'.
sub sqlstate
{
	my ($self) = @_;
	return $self->{error} ? $self->{error}{C} : '00000';
}

# Its SQLSTATE and message, for diagnostics.
sub message
{
	my ($self) = @_;
	return '' unless $self->{error};
	return join ' ', grep { defined } @{ $self->{error} }{qw(C M D)};
}

# What was told last, in one text: SQLSTATE, message, detail, hint.
sub told
{
	my ($self) = @_;
	my $error = $self->{error} or return 'no error';
	return join "\n", "$error->{C}: $error->{M}", map { defined $_ ? $_ : () } @{$error}{qw(D H)};
}

# Is the session still there, as far as is known?
sub is_open
{
	my ($self) = @_;
	return $self->{open};
}

# The process ID of the session's backend.
sub pid
{
	my ($self) = @_;
	return $self->{pid};
}

# Sends statements without waiting for the answer, which result() then gets.
sub send
{
	my ($self, $sql) = @_;
	$self->_write('Q' . pack('N', 5 + length $sql) . $sql . "\0");
	return;
}

# Prepares a statement by the extended protocol, and waits; true if that succeeded.
sub prepare
{
	my ($self, $name, $sql) = @_;
	my $body = "$name\0$sql\0" . pack('n', 0);
	$self->_write('P' . pack('N', 4 + length $body) . $body . 'S' . pack('N', 4));
	return !$self->result->{error};
}

# Runs a statement that was prepared so, with parameters as text, and waits; its rows, an empty list on error.
sub execute
{
	my ($self, $name, @values) = @_;
	my $bind =
		"\0$name\0"
	  . pack('n n', 0, scalar @values)
	  . join('', map { defined $_ ? pack('N', length $_) . $_ : pack('N', 0xFFFFFFFF) } @values)
	  . pack('n', 0);
	my $run = "\0" . pack('N', 0);
	$self->_write(
		'B' . pack('N', 4 + length $bind) . $bind . 'E' . pack('N', 4 + length $run) . $run . 'S' . pack('N', 4));
	my $answer = $self->result;
	return $answer->{error} ? () : @{ $answer->{rows} };
}

# Sends a statement to be prepared, by the extended protocol, and does not say that this is all: send_sync does, and result() then
# gets the answer.
sub send_parse
{
	my ($self, $sql) = @_;
	my $body = "\0$sql\0" . pack('n', 0);
	$self->_write('P' . pack('N', 4 + length $body) . $body);
	return;
}

# Says that this was all.
sub send_sync
{
	my ($self) = @_;
	$self->_write('S' . pack('N', 4));
	return;
}

# Sends lines for the COPY FROM STDIN that was sent.
sub send_copy
{
	my ($self, $lines) = @_;
	$self->_write('d' . pack('N', 4 + length $lines) . $lines);
	return;
}

# Says that this was all; result() then gets the answer.
sub end_copy
{
	my ($self) = @_;
	$self->_write('c' . pack('N', 4));
	return;
}

# Is there something to read within so many seconds?
sub readable
{
	my ($self, $seconds) = @_;
	return 1 if length $self->{buffer} || !$self->{open};
	return IO::Select->new($self->{socket})->can_read($seconds) ? 1 : 0;
}

# The answer to what was sent: { rows => of the last statement that had any, error => }.
sub result
{
	my ($self) = @_;
	my %answer = (rows => [], error => undef, tags => [], notices => []);

	for (;;)
	{
		my ($type, $body) = $self->_message;
		unless (defined $type)
		{
			$answer{error} ||= $self->{lost};
			last;
		}
		if    ($type eq 'Z') { last }
		elsif ($type eq 'T') { $answer{rows} = [] }
		elsif ($type eq 'D') { push @{ $answer{rows} }, _row($body) }
		elsif ($type eq 'C') { push @{ $answer{tags} }, unpack 'Z*', $body }
		elsif ($type eq 'N') { push @{ $answer{notices} }, _fields($body) }
		elsif ($type eq 'E') { $answer{error} ||= _fields($body) }
		elsif ($type eq 'K') { $self->{pid} = unpack 'N', $body }
		elsif ($type eq 'A') { push @{ $self->{notifications} }, $body }
		elsif ($type eq 'R' && unpack('N', $body) != 0)
		{
			$self->close;
			$answer{error} = { C => '28000', M => 'authentication is wanted' };
			last;
		}
	}
	$self->{error} = $answer{error};
	return \%answer;
}

# Sends statements and waits; the rows, an empty list on error.
sub rows
{
	my ($self, $sql) = @_;
	$self->send($sql);
	my $answer = $self->result;
	return $answer->{error} ? () : @{ $answer->{rows} };
}

# The same as text: columns are separated by |, rows by line ends. undef on error.
sub query
{
	my ($self, $sql) = @_;
	my @rows = $self->rows($sql);
	return undef if $self->{error};
	return join "\n", map {
		join '|',
		  map { defined $_ ? $_ : '' }
		  @$_
	} @rows;
}

# Sends statements and waits; true if they succeeded.
sub do
{
	my ($self, $sql) = @_;
	$self->rows($sql);
	return !$self->{error};
}

# What NOTIFY has brought so far, with the answers.
sub notifications
{
	my ($self) = @_;
	return @{ $self->{notifications} };
}

# Ends the session.
sub close
{
	my ($self) = @_;
	if ($self->{open})
	{
		$self->_write('X' . pack('N', 4));
		$self->{socket}->close;
	}
	$self->{open} = 0;
	$self->{lost} ||= { C => '08003', M => 'session is closed' };
	return;
}

# Ends the session as kill -9 of the client does: without a word to the server.
sub vanish
{
	my ($self) = @_;
	$self->{socket}->close;
	$self->{open} = 0;
	return;
}

sub _lose
{
	my ($self, $why) = @_;
	$self->{open} = 0;
	$self->{lost} = { C => '08006', M => $why };
	$self->{socket}->close;
	return;
}

sub _write
{
	my ($self, $data) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while ($self->{open} && length $data)
	{
		my $n = syswrite $self->{socket}, $data;
		next if !defined $n && $!{EINTR};
		# What the server said before it went can still be read.
		return unless defined $n;
		substr $data, 0, $n, '';
	}
	return;
}

# Reads until the buffer has that many bytes; false if they don't come.
sub _fill
{
	my ($self, $size) = @_;
	while (length $self->{buffer} < $size)
	{
		return 0 unless $self->{open};
		unless (IO::Select->new($self->{socket})->can_read($self->{timeout}))
		{
			next if $!{EINTR};
			$self->_lose("no answer within $self->{timeout} s");
			return 0;
		}
		my $n = sysread $self->{socket}, $self->{buffer}, 65536, length $self->{buffer};
		next if !defined $n && $!{EINTR};
		unless ($n)
		{
			$self->_lose('connection lost');
			return 0;
		}
	}
	return 1;
}

# The next message: its type and its body.
sub _message
{
	my ($self) = @_;
	return unless $self->_fill(5);
	my ($type, $length) = unpack 'a N', $self->{buffer};
	return unless $self->_fill(1 + $length);
	my $body = substr $self->{buffer}, 5, $length - 4;
	substr $self->{buffer}, 0, 1 + $length, '';
	return ($type, $body);
}

# The values in a DataRow.
sub _row
{
	my ($body) = @_;
	my $n = unpack 'n', $body;
	my $at = 2;
	my @values;
	while ($n-- > 0)
	{
		my $length = unpack 'N', substr $body, $at, 4;
		$at += 4;
		if ($length == 0xFFFFFFFF)
		{
			push @values, undef;
			next;
		}
		push @values, substr $body, $at, $length;
		$at += $length;
	}
	return \@values;
}

# The fields of an ErrorResponse.
sub _fields
{
	my ($body) = @_;
	return {
		map  { substr($_, 0, 1) => substr($_, 1) }
		grep { length } split /\0/, $body
	};
}

1;
