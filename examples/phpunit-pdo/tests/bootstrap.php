<?php

require __DIR__ . '/../src/Shop.php';
require __DIR__ . '/TestDatabase.php';
