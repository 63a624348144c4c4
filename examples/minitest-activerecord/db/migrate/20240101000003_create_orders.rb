class CreateOrders < ActiveRecord::Migration[6.1]
  def change
    create_table :warehouses do |t|
      t.text :city, null: false, index: { unique: true }
    end
    create_table :stocks do |t|
      t.references :warehouse, null: false, foreign_key: true
      t.references :product, null: false, foreign_key: true
      t.integer :amount, null: false
      t.check_constraint 'amount >= 0'
    end
    create_table :purchases do |t|
      t.references :customer, null: false, foreign_key: true
      t.datetime :created_at, null: false
    end
    create_table :purchase_items do |t|
      t.references :purchase, null: false, foreign_key: true
      t.references :product, null: false, foreign_key: true
      t.integer :amount, null: false
      t.check_constraint 'amount > 0'
    end
    create_table :payments do |t|
      t.references :purchase, null: false, foreign_key: true
      t.decimal :total, precision: 10, scale: 2, null: false
    end
    create_table :shipments do |t|
      t.references :purchase, null: false, foreign_key: true
      t.references :address, null: false, foreign_key: true
      t.datetime :sent_at
    end
  end
end
