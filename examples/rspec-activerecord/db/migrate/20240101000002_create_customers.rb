class CreateCustomers < ActiveRecord::Migration[6.1]
  def change
    create_table :customers do |t|
      t.text :email, null: false, index: { unique: true }
    end
    create_table :addresses do |t|
      t.references :customer, null: false, foreign_key: true
      t.text :street, null: false
      t.text :city, null: false
    end
    create_table :reviews do |t|
      t.references :customer, null: false, foreign_key: true
      t.references :product, null: false, foreign_key: true
      t.integer :stars, null: false
      t.check_constraint 'stars BETWEEN 1 AND 5'
    end
  end
end
