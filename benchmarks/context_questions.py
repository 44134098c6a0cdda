"""Statements about a public-domain text, each with its right ending first and three wrong ones of the same kind.

The text is `lcet10.txt` of the Canterbury corpus (in google/snappy, testdata): the proceedings of a workshop on
electronic texts. All answers stand in its first 6,500 tokens.
"""

SHA256 = "5314ba1dbb03f471df88bec6cd120a938ef60d0fd3511c5c1dce61bf7463245f"

QUESTIONS = (
    ("The Workshop on Electronic Texts took place in June", " 1992", " 1989", " 1995", " 1987"),
    ("The Workshop was paid for by the David and Lucile", " Packard", " Mellon", " Sloan", " Carnegie"),
    ("The summary of the Workshop was compiled by James", " DALY", " LYNCH", " WATERS", " BESSER"),
    ("Imaging of old books at Cornell was presented by Anne", " KENNEY", " BATTIN", " HOCKEY", " ZIDAR"),
    ("Yale's plan to convert microfilm is called Project Open", " Book", " Door", " Image", " Shelf"),
    ("The Text Encoding Initiative was defended by Michael", " SPERBERG", " LESK", " GIFFORD", " BARONAS"),
    ("The Papers of George Washington hold documents in the number of", " 135,000", " 48,000", " 620,000", " 9,500"),
    ("American Memory's texts are accurate to about this percentage:", " 99", " 90", " 75", " 80"),
    ("The National Agricultural Library reckoned the costs of one page at", " $7", " $2", " $12", " $9"),
    ("American Memory reckoned the costs of one page at", " $4", " $8", " $11", " $3"),
    ("Packet radio as a link of the network was discussed by Edwin", " BROWNRIGG", " LARSEN", " THOMA", " ERWAY"),
    ("Migne's collection of Latin texts was spoken of by Eric", " CALALUCA", " WEIBEL", " ANDRE", " MYLONAS"),
    ("The number of scholarly conferences on Internet is more than", " 700", " 60", " 3,000", " 250"),
    ("Copyright law was reviewed by Marybeth", " PETERS", " LEBRON", " VECCIA", " TWOHIG"),
    ("The last session was moderated by Prosser", " GIFFORD", " DALY", " BESSER", " LYNCH"),
    ("At that time the Librarian of Congress was James H.", " Billington", " Mumford", " Boorstin", " Putnam"),
)
