require 'test_helper'

class SchemaTest < DatabaseTest
  test 'a test may change the schema' do
    ActiveRecord::Base.connection.add_column(:products, :weight, :integer, null: false, default: 1)
    assert_equal 3, ActiveRecord::Base.connection.select_value('SELECT sum(weight) FROM products')
  end

  test 'the schema is the template\'s' do
    assert_not ActiveRecord::Base.connection.column_exists?(:products, :weight)
  end
end
