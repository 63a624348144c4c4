# The application: a shop. It commits for itself, as applications do.
require 'active_record'

class Product < ActiveRecord::Base
end

class Stock < ActiveRecord::Base
end

class Customer < ActiveRecord::Base
  has_many :purchases
end

class Purchase < ActiveRecord::Base
  class OutOfStock < StandardError
  end

  belongs_to :customer
  has_many :purchase_items

  # Orders { product => amount } for a customer.
  def self.place(customer, items)
    transaction do
      order = create!(customer: customer)
      items.each do |product, amount|
        taken = Stock.where(product_id: product.id).where('amount >= ?', amount).update_all(['amount = amount - ?', amount])
        raise OutOfStock, product.name if taken.zero?

        order.purchase_items.create!(product: product, amount: amount)
      end
      order
    end
  end

  # Pays for it, and returns the total.
  def pay
    Payment.create!(purchase: self, total: purchase_items.includes(:product).sum { |item| item.amount * item.product.price }).total
  end
end

class PurchaseItem < ActiveRecord::Base
  belongs_to :purchase
  belongs_to :product
end

class Payment < ActiveRecord::Base
  belongs_to :purchase

  def self.revenue
    sum(:total)
  end
end
