require 'test_helper'

class RevenueTest < SameDatabaseTest
  { 'kettle' => 30, 'teapot' => 25.5, 'rake' => 12 }.each do |name, price|
    (1..5).each do |amount|
      test "#{amount} #{name}s add to the revenue" do
        assert_equal 0, Payment.revenue
        Purchase.place(Customer.first, Product.find_by!(name: name) => amount).pay
        assert_equal price * amount, Payment.revenue
      end
    end
  end

  test 'a table may go' do
    ActiveRecord::Base.connection.drop_table(:shipments)
  end

  test 'the table is back' do
    assert_equal 0, ActiveRecord::Base.connection.select_value('SELECT count(*) FROM shipments')
  end
end
