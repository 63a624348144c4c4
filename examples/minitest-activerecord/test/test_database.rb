# Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
require 'active_record'
require 'pg'
require 'uri'

module TestDatabase
  # Where testdb is. What a test gets is another database on this server.
  SERVER = URI(ENV.fetch('ADMIN_URL', 'postgresql://postgres:postgres@localhost:5435/postgres'))

  module_function

  # Calls a function of testdb, on one connection that stays. Clones go with it: when this process ends, however it ends.
  def call(function, *values)
    @admin ||= PG.connect(SERVER.to_s)
    @admin.exec_params("SELECT * FROM #{function}", values).values.first
  end

  def connect_to(name)
    ActiveRecord::Base.establish_connection((SERVER + name).to_s)
  end

  # The process that comes first makes it, and the others wait here. After a change of a migration there is another one.
  def make_template
    migrations = Dir['db/migrate/*.rb'].sort.map { |file| File.read(file) }.join
    name, build = call("testdb_template_begin('shop', md5($1))", migrations)
    if build == 't'
      connect_to(name)
      ActiveRecord::Migration.suppress_messages { ActiveRecord::Base.connection.migration_context.migrate }
      ActiveRecord::Base.remove_connection
      call('testdb_template_finish($1)', name)
    end
    name
  end

  def clone(label)
    call("testdb_clone($1, scope => 'session', label => left($2, 100))", @template ||= make_template, label).first
  end

  # Connects ActiveRecord to a database of its own for a test.
  def fresh(label)
    connect_to(@fresh = clone(label))
  end

  # Drops or keeps that.
  def give_back(failed)
    ActiveRecord::Base.remove_connection
    call(failed ? "testdb_keep($1, '2 days')" : 'testdb_drop($1)', @fresh)
    puts %(Kept for 2 days: psql "host=#{SERVER.host} port=#{SERVER.port} user=#{SERVER.user} dbname=#{@fresh}") if failed
  end

  # Connects it to the one of this process, which is what the template is again; the connection to it stays open.
  def same
    @same ||= clone('worker')
    connect_to(@same) unless ActiveRecord::Base.connected? && ActiveRecord::Base.connection.current_database == @same
    call('testdb_rewind($1)', @same)
  end
end
