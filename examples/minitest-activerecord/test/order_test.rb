require 'test_helper'

class OrderTest < DatabaseTest
  setup { @ada = Customer.find_by!(email: 'ada@example.com') }

  %w[kettle teapot rake].each do |name|
    (1..5).each do |amount|
      test "an order of #{amount} #{name}s takes them from stock" do
        product = Product.find_by!(name: name)
        # Number 1, each time: the sequences are the template's, too.
        assert_equal 1, Purchase.place(@ada, product => amount).id
        assert_equal 5 - amount, Stock.find_by!(product_id: product.id).amount
      end
    end
  end

  test 'nothing is taken if something is missing' do
    kettle, teapot = Product.order(:id).first(2)
    assert_raises(Purchase::OutOfStock) { Purchase.place(@ada, kettle => 1, teapot => 6) }
    assert_equal 5, Stock.find_by!(product_id: kettle.id).amount
    assert_empty @ada.purchases
  end

  test 'other threads see what was committed' do
    # There is no transaction around the test.
    kettle = Product.find_by!(name: 'kettle')
    Thread.new { Purchase.place(@ada, kettle => 5) }.join
    assert_raises(Purchase::OutOfStock) { Purchase.place(@ada, kettle => 1) }
  end
end
