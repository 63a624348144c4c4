<?php

/** The application: a shop. It commits for itself, as applications do. */
final class Shop
{
    private PDO $db;

    public function __construct(PDO $db)
    {
        $this->db = $db;
    }

    /** Orders [product => amount] for a customer, and returns the order's number. */
    public function placeOrder(int $customer, array $items): int
    {
        $this->db->beginTransaction();
        try {
            $order = $this->value('INSERT INTO purchase (customer_id) VALUES (?) RETURNING id', $customer);
            foreach ($items as $product => $amount) {
                $taken = $this->run('UPDATE stock SET amount = amount - ? WHERE product_id = ? AND amount >= ?', $amount, $product, $amount);
                if ($taken->rowCount() === 0) {
                    throw new OutOfStock("product $product");
                }
                $this->run('INSERT INTO purchase_item VALUES (?, ?, ?)', $order, $product, $amount);
            }
            $this->db->commit();
            return $order;
        } catch (Throwable $error) {
            $this->db->rollBack();
            throw $error;
        }
    }

    public function inStock(int $product): int
    {
        return $this->value('SELECT sum(amount) FROM stock WHERE product_id = ?', $product);
    }

    public function ordersOf(int $customer): array
    {
        return $this->run('SELECT id FROM purchase WHERE customer_id = ? ORDER BY id', $customer)->fetchAll(PDO::FETCH_COLUMN);
    }

    /** Pays for an order, and returns the total. */
    public function pay(int $order): string
    {
        return $this->value(
            'INSERT INTO payment (purchase_id, total)
             SELECT i.purchase_id, sum(p.price * i.amount)
             FROM purchase_item i JOIN product p ON p.id = i.product_id
             WHERE i.purchase_id = ? GROUP BY 1 RETURNING total', $order);
    }

    public function revenue(): string
    {
        return $this->value('SELECT coalesce(sum(total), 0) FROM payment');
    }

    private function run(string $sql, ...$values): PDOStatement
    {
        $statement = $this->db->prepare($sql);
        $statement->execute($values);
        return $statement;
    }

    private function value(string $sql, ...$values)
    {
        return $this->run($sql, ...$values)->fetchColumn();
    }
}

final class OutOfStock extends RuntimeException
{
}
