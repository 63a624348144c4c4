class CreateCatalogue < ActiveRecord::Migration[6.1]
  def change
    create_table :categories do |t|
      t.text :name, null: false, index: { unique: true }
    end
    create_table :suppliers do |t|
      t.text :name, null: false, index: { unique: true }
    end
    create_table :products do |t|
      t.references :supplier, null: false, foreign_key: true
      t.text :name, null: false, index: { unique: true }
      t.decimal :price, precision: 10, scale: 2, null: false
      t.check_constraint 'price >= 0'
    end
    create_join_table :products, :categories do |t|
      t.index %i[product_id category_id], unique: true
    end
    create_table :price_changes do |t|
      t.references :product, null: false, foreign_key: true
      t.decimal :price, precision: 10, scale: 2, null: false
      t.datetime :created_at, null: false
    end
  end
end
